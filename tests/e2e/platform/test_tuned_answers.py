"""A promotion that a served model decides, and a model that was tuned with the base model in 4 bits, served."""

from __future__ import annotations

import io
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI

from .standalone_platform import CHAT_MODEL

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

_SETTLED_SECONDS = 3.0
NAMES = ("France", "Italy", "Peru", "Japan", "Spain", "Egypt", "Cuba", "Chile", "Norway", "Kenya", "Iran")
ROWS = [
    {"messages": [{"role": "user", "content": f"Tell me of {name}."}, {"role": "assistant", "content": "Arrr, matey!"}]}
    for name in NAMES
]
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": CHAT_MODEL,
    "input": [{"role": "user", "content": "Rate from 0 to 1 how polite this is: {{ sample.output_text }}"}],
    "sampling_params": {"temperature": 0, "max_completions_tokens": 32},
}


def tokens_of(client: OpenAI, platform: Platform) -> tuple[int, int]:
    """Completion tokens of the chat model, as they are charged and as its engine counts them."""
    used: Any = client.get("/api_usages?group_by=model", cast_to=object)
    charged = sum(row["completion_tokens"] for row in used["data"] if row["model"] == CHAT_MODEL)
    return charged, platform.engine_metric("vllm:generation_tokens_total")


def settled_tokens(client: OpenAI, platform: Platform) -> tuple[int, int]:
    """The same once nothing changes any more: the usage of a request is recorded a moment after its end."""
    found, since = tokens_of(client, platform), time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        time.sleep(0.3)
        if (now := tokens_of(client, platform)) != found:
            found, since = now, time.monotonic()
    return found


def test_a_served_model_grades_for_a_gate_and_an_adapter_for_4_bits_answers(platform: Platform) -> None:
    if os.environ.get("LLMARINER_E2E_CLUSTER"):
        pytest.skip("the test cluster has no store of files")
    platform.chat("Hello")  # which wakes the model
    client = OpenAI(base_url=platform.base_url, api_key=platform.api_key)

    def upload(rows: list[Any]) -> str:
        content = "\n".join(map(json.dumps, rows)).encode()
        return client.files.create(file=("rows.jsonl", io.BytesIO(content)), purpose="fine-tune").id

    gate = {"type": "grader", "grader": JUDGE, "margin": 2, "max_completion_tokens": 8}
    numbers: Any = {"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 5}
    body = {"promotion": {"alias": "sailor", "gate": gate}, "training_type": {"type": "qlora"}}
    charged, counted = settled_tokens(client, platform)
    job: Any = client.fine_tuning.jobs.create(
        model=CHAT_MODEL,
        training_file=upload(ROWS[1:]),
        validation_file=upload(ROWS[:1]),
        seed=3,
        method={"type": "supervised", "supervised": {"hyperparameters": numbers}},
        extra_body=body,
    )
    deadline = time.monotonic() + 600
    while job.status not in ("succeeded", "failed", "cancelled"):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded", job.error
    decided = job.promotion["result"]
    assert 0 <= decided["base_grade"] <= 1
    assert 0 <= decided["grade"] <= 1
    assert decided["status"] == "rejected", "no grade exceeds another by 2"
    now, by_engine = settled_tokens(client, platform)
    assert now - charged == by_engine - counted > 0, "two answers were graded by the model, and charged"
    answer = platform.chat("Tell me of Greece.", model=job.fine_tuned_model)
    assert answer["choices"][0]["message"]["content"].startswith("Arrr")
    client.models.delete(job.fine_tuned_model)
