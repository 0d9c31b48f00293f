"""Reinforcement by the training program: rewards rise, and an interrupted job has the same answers."""

from __future__ import annotations

import json
from collections import Counter
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


MANY = 5
CONVERSATIONS = [{"messages": [*line["messages"], {"role": "assistant", "content": "a"}]} for line in LINES]
PAIRS = [
    {
        "input": {"messages": line["messages"]},
        "preferred_output": [{"role": "assistant", "content": "a"}],
        "non_preferred_output": [{"role": "assistant", "content": "b"}],
    }
    for line in LINES
]
GATED = {
    **TRAINING,
    "method": "supervised",
    "grader": None,
    "n_epochs": 6,
    "gate_grader": {**HAS_LETTER, "reference": "{{ item.reference_answer }}"},
    "gate_completion_tokens": 1,
}


@dataclass(frozen=True)
class Runs:
    """Runs of one process. `judged`: with a judging model, which a budget allows 20 grades.

    `gated`: supervised, with a gate. `paused`: by reinforcement with a gate, whose judging model a budget allows the base
    model's grades alone, and continued; `orphaned`: whose judging model is deleted then. `killed`: supervised, with a gate
    of many lines, and killed while the base model is graded, and the result. `preferences`: as `gated`, by `dpo`.
    """

    plan: dict[str, Any]
    whole: ScriptedPlatform
    judged: ScriptedPlatform
    gated: ScriptedPlatform
    paused: ScriptedPlatform
    orphaned: ScriptedPlatform
    killed: ScriptedPlatform
    preferences: ScriptedPlatform


@pytest.fixture(scope="module")
def runs(program: Program) -> Iterator[Runs]:
    plan = {**TRAINING, "model_folder": str(program.decided)}
    with (
        scripted_platform() as whole,
        scripted_platform() as judged,
        scripted_platform() as gated,
        scripted_platform() as paused,
        scripted_platform() as orphaned,
        scripted_platform() as killed,
        scripted_platform() as preferences,
    ):
        file = whole.add_file("lines", jsonl(LINES))
        held_out = whole.add_file("held-out", jsonl(LINES[:1]))
        evaluation = {"validation_file": held_out, "eval_interval": 3, "eval_samples": 2}
        whole.plan = {**plan, **evaluation, "training_file": file}
        judged.grades_until_budget = 20  # a step has 16 answers
        judged.plan = {**plan, "grader": JUDGED, "training_file": judged.add_file("lines", jsonl(LINES))}
        conversations = gated.add_file("lines", jsonl(CONVERSATIONS))
        files = {"training_file": conversations, "validation_file": conversations}
        gated.plan = {**GATED, "model_folder": str(program.decided), **files}
        prompts = paused.add_file("lines", jsonl(LINES))
        files = {"training_file": prompts, "validation_file": prompts}
        paused.plan = {**plan, "n_epochs": 1, "batch_size": 4, "gate_grader": JUDGED, **files}
        paused.grades_until_budget, paused.continues = len(LINES), True
        prompts = orphaned.add_file("lines", jsonl(LINES))
        files = {"training_file": prompts, "validation_file": prompts}
        orphaned.plan = {**paused.plan, **files}
        orphaned.grades_until_budget, orphaned.grader_is_gone = len(LINES), True
        conversations = killed.add_file("lines", jsonl(CONVERSATIONS))
        many = killed.add_file("held-out", jsonl(CONVERSATIONS * MANY))
        killed.plan = {**gated.plan, "n_epochs": 1, "training_file": conversations, "validation_file": many}
        killed.plan |= {"batch_size": 4, "gate_grader": JUDGED, "checkpoint_seconds": 0}
        killed.grades_until_budget, killed.continues = 1000, True
        killed.kills_at = [12, 4 + 4 * MANY + 12]
        pairs = preferences.add_file("pairs", jsonl(PAIRS))
        files = {"training_file": pairs, "validation_file": pairs}
        preferences.plan = {**gated.plan, "method": "dpo", "n_epochs": 2, **files}
        program.run_in_turn(judged, whole, gated, preferences, paused, paused, orphaned, killed, killed, killed)
        yield Runs(plan, whole, judged, gated, paused, orphaned, killed, preferences)


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


def test_two_workers_continue_with_the_same_answers_and_ask_for_each_grade_once(
    program: Program, platform: ScriptedPlatform, runs: Runs
) -> None:
    def is_right(asked: dict[str, Any]) -> bool:
        """As the grader of the run of one worker says."""
        return "a" in asked["output_text"].lower()

    whole = runs.whole.records
    first = runs.whole.of_type("state")[0]
    assert first["step"] == 2
    checkpoint = platform.add_file("state", runs.whole.files[f"/files/{first['file_id']}"])
    file = platform.add_file("lines", jsonl(LINES))
    platform.plan = {**runs.plan, "grader": JUDGED, "training_file": file, "checkpoint": checkpoint}
    platform.judge, platform.grades_until_budget = is_right, 10_000
    platform.pause_at = 4
    with program.start(platform, workers=2) as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found, expected = rewards(platform.records), rewards(whole)
    assert sorted(found)[:2] == [3, 4]
    assert found == {step: pytest.approx(expected[step]) for step in found}
    tokens = {record["step"]: record["trained_tokens"] for record in whole if record["type"] == "step"}
    assert platform.of_type("step")[-1]["trained_tokens"] == tokens[max(found)]
    assert platform.of_type("paused")[0]["step"] == max(found) < STEPS
    asked = Counter((each["grader"], each["step"], each["place"]) for each in platform.graded)
    group = len(asked) // (2 * len(found))  # a batch has two lines, of which each worker has one
    assert group > 1
    answers = {f"train.{line}.{answer}" for line in range(2) for answer in range(group)}
    assert asked == {("method", str(step), place): 1 for step in found for place in answers}
    for step, reward in found.items():
        rights = [is_right(each) for each in platform.graded if each["step"] == str(step)]
        assert reward == pytest.approx(fmean(rights)), "of both workers' answers"


def test_a_judging_model_is_asked_by_the_platform_and_a_spent_budget_pauses_the_job(runs: Runs) -> None:
    platform = runs.judged
    assert [record["type"] for record in platform.records] == ["training", "step", "state", "paused"]
    assert platform.records[1]["train_reward"] == pytest.approx(0.5)
    paused = platform.records[-1]
    assert (paused["step"], paused["reason"]) == (1, "The budget is spent.")
    assert {(each["item"]["letter"], each["grader"]) for each in platform.graded} == {("a", "method")}


def test_a_gate_compares_answers_of_the_base_model_and_of_the_result(runs: Runs) -> None:
    checkpoints = runs.gated.of_type("checkpoint")
    assert ["full_valid_grade" in each for each in checkpoints] == [False] * 5 + [True], "the last one is the result"
    last = checkpoints[-1]
    assert last["base_valid_grade"] < 1 == last["full_valid_grade"]
    assert last["full_valid_loss"] < checkpoints[0]["full_valid_loss"]
    preferred = runs.preferences.of_type("checkpoint")
    assert ["full_valid_grade" in each for each in preferred] == [False, True]
    assert preferred[-1]["base_valid_grade"] < 1 == preferred[-1]["full_valid_grade"]


def test_a_gate_that_can_not_be_graded_pauses_the_job_before_its_last_checkpoint(runs: Runs) -> None:
    kinds = [record["type"] for record in runs.paused.records]
    begins = kinds.index("training", 1)
    assert kinds[:begins] == ["training", "step", "state", "paused"]
    assert kinds[begins:] == ["training", "checkpoint", "finished"], "no step is taken again"
    checkpoint = runs.paused.records[begins + 1]
    assert (checkpoint["step"], checkpoint["base_valid_grade"]) == (1, 0.5)
    assert "full_valid_grade" in checkpoint
    assert [each["grader"] for each in runs.paused.graded] == ["gate"] * len(runs.paused.graded)
    assert len(runs.paused.graded) >= 2 * len(LINES) + 1


def test_what_was_trained_is_kept_where_its_gate_can_not_be_graded_any_more(runs: Runs) -> None:
    assert [record["type"] for record in runs.orphaned.records] == ["training", "step", "checkpoint", "finished"]
    assert "full_valid_grade" not in runs.orphaned.of_type("checkpoint")[0]
    assert runs.orphaned.of_type("finished")[0]["gate_problem"] == "The judge was deleted."
    assert "gate_problem" not in runs.gated.of_type("finished")[0] | runs.paused.of_type("finished")[0]


def test_a_job_that_is_killed_while_its_gate_is_graded_continues_with_the_grades_that_it_has(runs: Runs) -> None:
    kinds = [record["type"] for record in runs.killed.records]
    assert kinds == [
        *["training", "state"],
        *["training", "state", "state", "step", "state"],
        *["training", "state", "state", "checkpoint", "finished"],
    ]
    states = [(each["step"], each["graded"]) for each in runs.killed.of_type("state")]
    assert states == [(0, 8), (0, 16), (0, 20), (1, 8), (1, 16), (1, 20)]
    asked = Counter((each["step"], each["place"]) for each in runs.killed.graded)
    assert set(asked) == {(step, f"{line}.0") for step in "01" for line in range(4 * MANY)}
    again = {each for each, number in asked.items() if number > 1}
    assert again == {(step, f"{line}.0") for step in "01" for line in range(8, 12)}, "the platform knows their grades"
    graded = runs.killed.of_type("checkpoint")[0]
    assert {"full_valid_grade", "base_valid_grade"} <= set(graded)
