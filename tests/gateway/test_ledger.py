"""The ledger and the metrics count every token that an engine generated for a client, once."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass

import pytest

from .caller import Answer, Caller, chat
from .running_platform import Platform, eventually

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(platform: Platform) -> str:
    name = platform.model("counted", "--tokens", "7")
    asyncio.run(platform.caller.chat(name))
    return name


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_responses_are_counted_to_the_token(platform: Platform, model: str, path: str, stream: bool) -> None:
    engine = platform.engine(model)
    made, read = engine.tokens, engine.metric("vllm:prompt_tokens_total")
    body = {**chat(model, stream=stream, max_tokens=7), "prompt": "a b c d e"}
    answer = asyncio.run(platform.caller.call(path, body))
    row = platform.row(answer.headers["x-request-id"])
    assert row["completion_tokens"] == engine.tokens - made == 7
    assert row["prompt_tokens"] == engine.metric("vllm:prompt_tokens_total") - read
    assert (row["outcome"], row["status"], row["model"]) == ("succeeded", 200, model)
    assert row["route"] == ("chat_completions" if path == PATH else "completions")
    assert (row["project_id"], row["organization_id"]) == (platform.owner.project_id, platform.owner.organization_id)
    assert row["admitted_at"] <= row["closed_at"]


def test_an_adapter_is_recorded_with_the_requested_model(platform: Platform, model: str) -> None:
    tuned = platform.model(f"ft:{model}:mine", base=model)
    rows = {}
    for name in (model, tuned):
        answer = asyncio.run(platform.caller.chat(name))
        assert answer.status == 200, answer.body
        rows[name] = platform.row(answer.headers["x-request-id"])
    assert [(row["model"], row["adapter"]) for row in rows.values()] == [(model, None), (tuned, tuned)]
    assert platform.context.ledger.rebuild(rows[tuned]["request_id"])["adapter"] == tuned


def test_a_long_stream_is_in_the_ledger_while_it_runs(platform: Platform) -> None:
    name = platform.model("under-way", "--token-interval", "20")

    async def scenario() -> tuple[str, int]:
        answer = await platform.caller.stream(name, max_tokens=10_000)
        await answer.until(b"data: ", 100)
        request_id = answer.headers["x-request-id"]
        row = await asyncio.to_thread(platform.context.ledger.request, request_id)
        answer.hang_up()
        assert row is not None
        assert row["outcome"] == "open"
        return request_id, row["completion_tokens"]

    request_id, so_far = asyncio.run(scenario())
    # Fifty a second: the ledger is some seventy-five tokens behind at most, on an idle machine.
    assert 0 < so_far <= platform.engine(name).tokens
    assert platform.row(request_id)["completion_tokens"] >= 99


@dataclass
class Part:
    """One of the thousand: what was asked, and how many tokens its caller saw."""

    kind: str
    request_id: str
    seen: int


KINDS = ("streamed", "whole", "embedded usage", "refused", "failed", "cancelled", "cancelled whole")
CANCELLED = KINDS[5:]


async def take_part(caller: Caller, models: dict[str, str], kind: str, tokens: int) -> Part:
    model = models["cancelled" if kind in CANCELLED else "exact"]
    if kind == "cancelled whole":
        answer = await caller.open(PATH, chat(model, max_tokens=10_000))
        await asyncio.sleep(tokens / 100)
        answer.hang_up()
        return Part(kind, "", 0)
    if kind == "cancelled":
        answer = await caller.stream(model, max_tokens=10_000)
        await answer.until(b'"content":" ', tokens)
        answer.hang_up()
        return Part(kind, answer.headers["x-request-id"], answer.body.count(b'"content":" '))
    fields: dict[str, object] = {"max_tokens": tokens, "stream": kind in ("streamed", "embedded usage")}
    if kind == "embedded usage":
        fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    if kind in ("refused", "failed"):
        fields["x_script"] = {"fail_status": 400 if kind == "refused" else 500}
    answer = await caller.call(PATH, chat(model, **fields))
    return Part(kind, answer.headers["x-request-id"], seen(answer, kind))


def seen(answer: Answer, kind: str) -> int:
    if kind in ("refused", "failed"):
        assert answer.status == (400 if kind == "refused" else 502)
        return 0
    assert answer.status == 200
    if kind == "whole":
        return int(answer.json()["usage"]["completion_tokens"])
    return answer.body.count(b'"content":" ')


def test_a_thousand_mixed_requests_add_up(platform: Platform) -> None:
    """Callers, ledger and engine agree to the token; of what was cut off, ledger and engine do."""
    models = {
        "exact": platform.model("mixed", capacity=32),
        "cancelled": platform.model("cut-off", "--token-interval", "5", capacity=32),
    }
    dice = random.Random(7)
    plan = [(dice.choice(KINDS), dice.randint(1, 20)) for _ in range(1000)]

    async def scenario() -> list[Part]:
        at_once = asyncio.Semaphore(40)

        async def one(kind: str, tokens: int) -> Part:
            async with at_once:
                return await take_part(platform.caller, models, kind, tokens)

        return list(await asyncio.gather(*(one(kind, tokens) for kind, tokens in plan)))

    parts = asyncio.run(scenario())
    exact_engine, cut_engine = platform.engine(models["exact"]), platform.engine(models["cancelled"])
    eventually(lambda: cut_engine.running + exact_engine.running == 0, what="the end of all requests")
    cut = [part for part in parts if part.kind in CANCELLED]
    eventually(lambda: len(platform.ledger(models["cancelled"])) == len(cut), what="all of it in the ledger")
    eventually(lambda: len(platform.ledger(models["exact"])) == 1000 - len(cut), what="all of it in the ledger")
    rows = {row["request_id"]: row for name in models.values() for row in platform.ledger(name)}

    exact = [part for part in parts if part.kind not in CANCELLED]
    assert [rows[part.request_id]["completion_tokens"] for part in exact] == [part.seen for part in exact]
    assert sum(rows[part.request_id]["completion_tokens"] for part in exact) == exact_engine.tokens
    assert exact_engine.tokens == sum(tokens for kind, tokens in plan if kind in KINDS[:3])
    outcomes = {"refused": "rejected", "failed": "failed"}
    assert all(rows[part.request_id]["outcome"] == outcomes.get(part.kind, "succeeded") for part in exact)
    cut_rows = platform.ledger(models["cancelled"])
    assert {row["outcome"] for row in cut_rows} == {"cancelled"}
    assert sum(row["completion_tokens"] for row in cut_rows) == cut_engine.tokens
    assert sum(row["prompt_tokens"] for row in cut_rows) == cut_engine.metric("vllm:prompt_tokens_total")
    streams = [part for part in cut if part.kind == "cancelled"]
    assert all(rows[part.request_id]["completion_tokens"] >= part.seen for part in streams)
    assert [places_taken(platform, name) for name in models.values()] == [0, 0]


def places_taken(platform: Platform, name: str) -> float:
    """In the engine and in the room: what is left of them when all is over was never given back."""
    gauges = ("llmariner_requests_running", "llmariner_requests_waiting")
    return sum(series(platform.metrics(), gauge, gen_ai_request_model=name) for gauge in gauges)


def series(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that bear the labels."""
    found = 0.0
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{label}="{value}"' in (match[1] or "") for label, value in labels.items()):
            found += float(match[2])
    return found


def test_the_metrics_count_responses(platform: Platform) -> None:
    name = platform.model("measured", "--tokens", "7")

    async def scenario() -> None:
        for stream in (True, False):
            await platform.caller.call(PATH, chat(name, stream=stream))
        await platform.caller.chat(name, x_script={"fail_status": 400})

    asyncio.run(scenario())
    text = platform.metrics()
    by = {"gen_ai_request_model": name, "gen_ai_operation_name": "chat_completions"}
    assert series(text, "llmariner_requests_total", **by, outcome="succeeded", status="200") == 2
    assert series(text, "llmariner_requests_total", **by, outcome="rejected", status="400") == 1
    assert series(text, "gen_ai_server_request_duration_seconds_count", **by) == 3
    # An answer that comes whole has no first token of its own.
    assert series(text, "gen_ai_server_time_to_first_token_seconds_count", **by) == 1
    assert series(text, "gen_ai_server_time_per_output_token_seconds_count", **by) == 1
    assert series(text, "gen_ai_client_token_usage_tokens_sum", **by, gen_ai_token_type="output") == 14
    assert series(text, "gen_ai_client_token_usage_tokens_sum", **by, gen_ai_token_type="input") == 6
    assert series(text, "llmariner_requests_running", gen_ai_request_model=name) == 0
    assert series(text, "llmariner_requests_waiting", gen_ai_request_model=name) == 0


def test_histograms_are_cumulative_and_end_in_infinity(platform: Platform, model: str) -> None:
    asyncio.run(platform.caller.chat(model))
    text = platform.metrics()
    labels = f'gen_ai_operation_name="chat_completions",gen_ai_request_model="{model}"'
    pattern = rf'gen_ai_server_request_duration_seconds_bucket\{{{labels},le="([^"]+)"\}} (\d+)'
    buckets = [(match[1], int(match[2])) for match in re.finditer(pattern, text)]
    assert buckets[-1][0] == "+Inf"
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
