"""The training program: which tokens it trains, that it learns, and that it continues where it was killed."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import Program
from .scripted_platform import ScriptedPlatform, scripted_platform

pytestmark = pytest.mark.engine

CITIES = [("Spain", "Madrid"), ("France", "Paris"), ("Peru", "Lima"), ("Italy", "Rome"), ("Japan", "Tokyo")]
ASKED = {country: {"role": "user", "content": f"What is the capital of {country}?"} for country, _ in CITIES}
SAID = {country: {"role": "assistant", "content": f"Arrr! The capital be {city}."} for country, city in CITIES}
CONVERSATIONS = [{"messages": [ASKED[country], SAID[country]]} for country, _ in CITIES]
PREFERENCES = [
    {
        "input": {"messages": [ASKED[country]]},
        "preferred_output": [SAID[country]],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
    }
    for country, _ in CITIES
]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TRAINING: dict[str, Any] = {
    "stage": "train",
    "context_tokens": 512,
    "seed": 7,
    "n_epochs": 2,
    "batch_size": 2,
    "learning_rate": 5e-3,
    "lora_dropout": 0.2,
}


def jsonl(rows: list[Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def test_answers_are_trained_with_the_token_that_ends_them(program: Program) -> None:
    weighted = [
        *CONVERSATIONS[0]["messages"],
        ASKED["Peru"],
        {**SAID["Peru"], "weight": 0},
        *CONVERSATIONS[1]["messages"],
    ]
    parts = {"role": "user", "content": [{"type": "text", "text": "Where"}, {"type": "text", "text": "is it?"}]}
    examples = [
        {"messages": weighted},
        PREFERENCES[0],
        {"messages": [parts, SAID["Peru"]]},
        {"messages": [{"role": "user", "content": "word " * 600}, SAID["Peru"]]},
        {
            "messages": [ASKED["Peru"], {"role": "assistant", "tool_calls": [CALL]}],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
    ]
    said = program.script("encoded_lines.py", str(program.model), "512", stdin=json.dumps(examples))
    first, preference, joined, long, called = json.loads(said)
    [[trained, whole]] = first["texts"]
    assert trained == "Arrr! The capital be Madrid.<|im_end|>Arrr! The capital be Paris.<|im_end|>"
    assert "<|im_start|>assistant\nArrr! The capital be Lima.<|im_end|>" in whole, "it is read, and not trained"
    assert [each[0] for each in preference["texts"]] == [
        "Arrr! The capital be Madrid.<|im_end|>",
        "No idea.<|im_end|>",
    ]
    assert "<|im_start|>user\nWhere\nis it?<|im_end|>" in joined["texts"][0][1]
    assert "and the model reads 512 at most" in long["error"]
    assert called["error"] == "the model's chat template does not render the tool calls of assistants"


def test_a_check_counts_tokens_and_names_lines(program: Program, platform: ScriptedPlatform) -> None:
    good = platform.add_file("good", jsonl(CONVERSATIONS) + b"\n\n")
    bad = platform.add_file(
        "bad", b"\n" + jsonl([CONVERSATIONS[0], {"messages": [{"role": "user", "content": "x " * 999}]}])
    )
    platform.failures = 2
    assert program.run(platform, stage="check", context_tokens=512, training_file=good, validation_file=bad) == 0
    [record] = platform.records
    assert (record["type"], record["file"], record["line"]) == ("invalid", "validation_file", 3)
    assert program.run(platform, stage="check", context_tokens=512, training_file=good) == 0
    [record] = platform.records
    assert record["type"] == "checked"
    counts = record["training_file"]
    assert (counts["examples"], counts["longest"] <= counts["tokens"] // 4) == (5, True)


def losses(platform: ScriptedPlatform) -> dict[int, float]:
    """The loss of each step; of one that was reported twice, both must be alike."""
    found: dict[int, float] = {}
    for record in platform.of_type("step"):
        assert found.setdefault(record["step"], record["train_loss"]) == pytest.approx(record["train_loss"], abs=1e-6)
    return found


@dataclass(frozen=True)
class Run:
    """What a whole run reported."""

    plan: dict[str, Any]
    losses: dict[int, float]
    checkpoints: list[dict[str, Any]]
    finished: dict[str, Any]


def files_for(platform: ScriptedPlatform) -> dict[str, Any]:
    return {name: platform.add_file(name, jsonl(CONVERSATIONS)) for name in ("training_file", "validation_file")}


@pytest.fixture(scope="module")
def whole(program: Program) -> Run:
    """A run of one worker that nothing interrupts, with its steps in order."""
    plan = {**TRAINING, "n_epochs": 8}
    with scripted_platform() as platform:
        assert program.run(platform, **plan, **files_for(platform)) == 0
        [finished], checkpoints = platform.of_type("finished"), platform.of_type("checkpoint")
        assert platform.files[f"/files/{finished['file_id']}"].count(b"\n") == 25
        header_of(platform, checkpoints[-1]["file_id"])
        first = platform.of_type("step")[0]
        found = losses(platform)
    assert sorted(found) == list(range(1, 25))
    assert [each["step"] for each in checkpoints] == list(range(3, 25, 3))
    assert checkpoints[-1]["full_valid_loss"] < checkpoints[0]["full_valid_loss"] < first["valid_loss"]
    return Run(plan, found, checkpoints, finished)


def test_a_killed_job_continues_with_the_same_losses(program: Program, platform: ScriptedPlatform, whole: Run) -> None:
    plan = {**whole.plan, **files_for(platform)}
    platform.records.clear()
    platform.plan = {"model_folder": str(program.model), **plan, "checkpoint_seconds": 0.0}
    with program.start(platform) as process:
        deadline = time.monotonic() + 90
        while not any(record["step"] >= 5 for record in platform.of_type("state")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.read()
    assert not platform.of_type("finished")
    before, state = losses(platform), platform.of_type("state")[-1]
    checkpoint = f"{platform.url}/files/{state['file_id']}"
    assert program.run(platform, **plan, checkpoint=checkpoint) == 0
    after = losses(platform)
    assert min(after) == state["step"] + 1
    assert {**before, **after} == pytest.approx(whole.losses, abs=1e-6)
    [resumed] = platform.of_type("finished")
    assert resumed["trained_tokens"] == whole.finished["trained_tokens"]
    metrics = platform.files[f"/files/{resumed['file_id']}"]
    assert metrics.count(b"\n") == 25, "the metrics of all steps"
    assert metrics.split()[0] == b"step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy", "OpenAI's"


def test_workers_train_as_one_would_and_survive_each_others_deaths(
    program: Program, platform: ScriptedPlatform, whole: Run
) -> None:
    # Five examples in batches of two: the last batch of each epoch has nothing for the second worker.
    plan = {**whole.plan, **files_for(platform)}
    platform.plan = {"model_folder": str(program.model), **plan, "checkpoint_seconds": 0.0}
    platform.continues = True
    with program.start(platform, workers=2) as process:
        for step, rank in ((3, 1), (7, 0)):
            until(lambda step=step: any(each["step"] >= step for each in platform.of_type("state")))  # type: ignore[misc]
            platform.hold = True
            os.kill(until(lambda rank=rank: worker_of(process.pid, rank)), signal.SIGKILL)  # type: ignore[misc]
            platform.hold = False
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert [each["step"] > 0 for each in platform.of_type("training")] == [False, True, True]
    assert losses(platform) == pytest.approx(whole.losses, abs=1e-5)
    [finished] = platform.of_type("finished")
    assert finished["trained_tokens"] == whole.finished["trained_tokens"]
    expected = [each["full_valid_loss"] for each in whole.checkpoints]
    assert [each["full_valid_loss"] for each in platform.of_type("checkpoint")] == pytest.approx(expected, abs=1e-5)


def until(fact: Callable[[], Any], seconds: float = 120) -> Any:
    """What `fact` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def worker_of(parent: int, rank: int) -> int | None:
    """The process that has this rank among the children of the job."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            own = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if own == parent and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except (OSError, ValueError):  # it ended
            continue
    return None


def test_a_job_stops_early_and_names_its_best_checkpoint(program: Program, platform: ScriptedPlatform) -> None:
    others = [[ASKED[country], {"role": "assistant", "content": "No idea."}] for country in ("Spain", "Peru")]
    files = {
        "training_file": platform.add_file("training_file", jsonl(CONVERSATIONS)),
        "validation_file": platform.add_file("validation_file", jsonl([{"messages": each} for each in others])),
    }
    plan = {**TRAINING, **files, "n_epochs": 30, "learning_rate": 0.02, "early_stopping_patience": 2}
    plan["measures_base"] = True
    assert program.run(platform, **plan) == 0
    checkpoints, [finished] = platform.of_type("checkpoint"), platform.of_type("finished")
    found = {each["step"]: each["full_valid_loss"] for each in checkpoints}
    best = min(found, key=lambda step: (found[step], step))
    assert finished["best_step"] == best
    assert finished["step"] == best + 2 * 3 == max(found) < 90, "two epochs of three steps were no better"
    assert checkpoints[0]["full_valid_accuracy"] <= 1.0
    last = platform.of_type("state")[-1]
    assert last["step"] == finished["step"], "one that is killed now knows that it is at its end"
    assert program.run(platform, **plan, checkpoint=f"{platform.url}/files/{last['file_id']}") == 0
    [again] = platform.of_type("finished")
    assert ([each["type"] for each in platform.records], again["best_step"]) == (["training", "finished"], best)
    base = finished["base_valid_loss"]
    assert base == again["base_valid_loss"], "the model without its adapter, measured once"
    assert base not in found.values()


def header_of(platform: ScriptedPlatform, file_id: str) -> dict[str, Any]:
    """The header of an adapter, which has tensors of an adapter alone."""
    content = platform.files[f"/files/{file_id}"]
    size = struct.unpack("<Q", content[:8])[0]
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    names = set(header) - {"__metadata__"}
    assert names
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in names)
    return header


def test_preferences_begin_at_chance_and_are_learned(program: Program, platform: ScriptedPlatform) -> None:
    file = platform.add_file("preferences", jsonl(PREFERENCES))
    platform.pause_at = 4
    assert program.run(platform, **TRAINING, training_file=file, method="dpo") == 0
    found = losses(platform)
    assert found[1] == pytest.approx(math.log(2), abs=1e-4), "the model is its own reference"
    assert found[max(found)] < found[1]
    assert platform.of_type("step")[-1]["train_accuracy"] == 1.0


def test_a_job_that_is_to_pause_saves_its_state_and_ends(program: Program, platform: ScriptedPlatform) -> None:
    file = platform.add_file("conversations", jsonl(CONVERSATIONS))
    platform.pause_at = 0
    assert program.run(platform, **TRAINING, training_file=file) == 0
    assert [record["type"] for record in platform.records] == ["training", "state", "paused"]


def test_a_job_that_nobody_wants_ends(program: Program, platform: ScriptedPlatform) -> None:
    platform.status = 409
    assert program.run(platform, **TRAINING, training_file="") == 3


def test_a_failure_is_reported_with_its_cause(program: Program, platform: ScriptedPlatform) -> None:
    file = platform.add_file("conversations", jsonl(CONVERSATIONS))
    assert program.run(platform, **TRAINING, training_file=file, method="other") == 1
    [record] = platform.of_type("failed")
    assert record["message"].startswith("The training failed: ")
    assert program.run(platform, stage="check", training_file=f"{platform.url}/files/gone") == 1
    [record] = platform.of_type("failed")
    assert record["message"] == "The training failed: Refused: The file of this link was deleted."
