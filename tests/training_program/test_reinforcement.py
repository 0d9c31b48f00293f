"""Reinforcement by the training program: rewards rise, and an interrupted job has the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pytest

from .conftest import Program
from .scripted_platform import ScriptedPlatform, scripted_platform

pytestmark = pytest.mark.engine

LINES = [{"messages": [{"role": "user", "content": f"Say {letter}."}], "letter": "a"} for letter in "bcde"]
HAS_LETTER = {
    "type": "string_check",
    "name": "letter",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.letter }}",
    "operation": "ilike",
}
TRAINING: dict[str, Any] = {
    "stage": "train",
    "method": "reinforcement",
    "context_tokens": 512,
    "seed": 7,
    "n_epochs": 8,
    "batch_size": 2,
    "learning_rate": 2e-2,
    "beta": 0.01,
    "max_completion_tokens": 1,
    "grader": HAS_LETTER,
}
STEPS = 16
JUDGED = {
    "type": "score_model",
    "name": "judge",
    "model": "judge",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }}."}],
}


def jsonl(rows: list[Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


@dataclass(frozen=True)
class Runs:
    """Two runs of one process. `judged`: with a judging model, which a budget allows 20 grades."""

    plan: dict[str, Any]
    whole: ScriptedPlatform
    judged: ScriptedPlatform


@pytest.fixture(scope="module")
def runs(program: Program) -> Iterator[Runs]:
    plan = {**TRAINING, "model_folder": str(program.decided)}
    with scripted_platform() as whole, scripted_platform() as judged:
        file = whole.add_file("lines", jsonl(LINES))
        held_out = whole.add_file("held-out", jsonl(LINES[:1]))
        evaluation = {"validation_file": held_out, "eval_interval": 3, "eval_samples": 2}
        whole.plan = {**plan, **evaluation, "training_file": file}
        judged.grades_until_budget = 20  # a step has 16 answers
        judged.plan = {**plan, "grader": JUDGED, "training_file": judged.add_file("lines", jsonl(LINES))}
        program.run_in_turn(judged, whole)
        yield Runs(plan, whole, judged)


def rewards(records: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["train_reward"] for record in records if record["type"] == "step"}


def test_rewards_rise(runs: Runs) -> None:
    whole = runs.whole.records
    found = rewards(whole)
    assert sorted(found) == list(range(1, STEPS + 1))
    first, last = ([found[step] for step in range(begin, begin + 4)] for begin in (1, STEPS - 3))
    assert fmean(last) > fmean(first) + 0.15, "two epochs each"
    assert fmean(last) > 0.75
    steps = [record for record in whole if record["type"] == "step"]
    assert (steps[0]["kl_divergence"], steps[-1]["kl_divergence"] > 0.01) == (pytest.approx(0, abs=1e-5), True)
    evaluated = [each["step"] for each in steps if "valid_reward" in each]
    assert evaluated == [step for step in range(1, STEPS + 1) if step % 2 == 0 or step % 3 == 0]
    assert {record["grader_errors"] for record in steps} == {0.0}
    checkpoints = [record for record in whole if record["type"] == "checkpoint"]
    assert [record["full_valid_reward"] for record in checkpoints] == [each["valid_reward"] for each in steps[1::2]]
    [finished] = runs.whole.of_type("finished")
    header, *rows = runs.whole.files[f"/files/{finished['file_id']}"].decode().splitlines()
    assert header.split(",")[:4] == ["step", "train_loss", "train_reward_mean", "valid_reward_mean"]
    assert len(rows) == STEPS


def test_a_job_continues_with_the_same_answers_also_with_more_workers(
    program: Program, platform: ScriptedPlatform, runs: Runs
) -> None:
    whole = runs.whole.records
    first = runs.whole.of_type("state")[0]
    assert first["step"] == 2
    checkpoint = platform.add_file("state", runs.whole.files[f"/files/{first['file_id']}"])
    file = platform.add_file("lines", jsonl(LINES))
    platform.plan = {**runs.plan, "training_file": file, "checkpoint": checkpoint}
    platform.pause_at = 4
    with program.start(platform, workers=2) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found, expected = rewards(platform.records), rewards(whole)
    assert sorted(found)[:2] == [3, 4]
    assert found == {step: pytest.approx(expected[step]) for step in found}
    tokens = {record["step"]: record["trained_tokens"] for record in whole if record["type"] == "step"}
    assert platform.of_type("step")[-1]["trained_tokens"] == tokens[max(found)]
    assert platform.of_type("paused")[0]["step"] == max(found) < STEPS


def test_a_judging_model_is_asked_by_the_platform_and_a_spent_budget_pauses_the_job(runs: Runs) -> None:
    platform = runs.judged
    assert [record["type"] for record in platform.records] == ["training", "step", "state", "paused"]
    assert platform.records[1]["train_reward"] == pytest.approx(0.5)
    paused = platform.records[-1]
    assert (paused["step"], paused["reason"]) == (1, "The budget is spent.")
    assert {each["item"]["letter"] for each in platform.graded} == {"a"}
