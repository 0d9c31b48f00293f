"""Reinforcement by the training program: rewards rise, and an interrupted job has the same answers."""

from __future__ import annotations

import json
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


@pytest.fixture(scope="module")
def plan(program: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a model whose answers a training can change: the tokens of the other are all about as likely."""
    model = program.make_model(tmp_path_factory.mktemp("model") / "tiny", "0.6")
    return {**TRAINING, "model_folder": str(model)}


@pytest.fixture(scope="module")
def whole(program: Program, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a run that nothing interrupts."""
    with scripted_platform() as platform:
        files = {"training_file": platform.add_file("lines", jsonl(LINES))}
        files["validation_file"] = platform.add_file("held-out", jsonl(LINES[:1]))
        assert program.run(platform, **{**plan, "eval_interval": 3, "eval_samples": 2}, **files) == 0
        [finished] = platform.of_type("finished")
        header, *rows = platform.files[f"/files/{finished['file_id']}"].decode().splitlines()
        assert (header.split(",")[:4], len(rows)) == (
            ["step", "train_loss", "train_reward_mean", "valid_reward_mean"],
            STEPS,
        )
        return platform.records


def rewards(records: list[dict[str, Any]]) -> dict[int, float]:
    return {record["step"]: record["train_reward"] for record in records if record["type"] == "step"}


def test_rewards_rise(whole: list[dict[str, Any]]) -> None:
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


def test_an_interrupted_job_has_the_same_answers_also_with_more_workers(
    program: Program, platform: ScriptedPlatform, plan: dict[str, Any], whole: list[dict[str, Any]]
) -> None:
    file = platform.add_file("lines", jsonl(LINES))
    platform.pause_at, platform.continues = 2, True
    assert program.run(platform, **plan, training_file=file) == 0
    first = rewards(platform.records)
    assert platform.of_type("paused")[0]["step"] == max(first) < 5
    platform.pause_at = max(first) + 2
    with program.start(platform, workers=2) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    found, expected = rewards(platform.records), rewards(whole)
    assert len(found) > len(first)
    assert found == {step: pytest.approx(expected[step]) for step in found}
    tokens = {record["step"]: record["trained_tokens"] for record in whole if record["type"] == "step"}
    assert platform.of_type("step")[-1]["trained_tokens"] == tokens[max(found)]


def test_a_judging_model_is_asked_by_the_platform_and_a_spent_budget_pauses_the_job(
    program: Program, platform: ScriptedPlatform, plan: dict[str, Any]
) -> None:
    file = platform.add_file("lines", jsonl(LINES))
    platform.grades_until_budget = 20  # a step has 16 answers
    assert program.run(platform, **{**plan, "grader": JUDGED}, training_file=file) == 0
    assert [record["type"] for record in platform.records] == ["training", "step", "state", "paused"]
    assert platform.records[1]["train_reward"] == pytest.approx(0.5)
    paused = platform.records[-1]
    assert (paused["step"], paused["reason"]) == (1, "The budget is spent.")
    assert {each["item"]["letter"] for each in platform.graded} == {"a"}
