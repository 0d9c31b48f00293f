"""Metrics: text that Prometheus reads, and numbers that add up."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.gateway.metering.metrics import Metrics

# Prometheus' text exposition format 0.0.4.
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"')
Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def read(text: str) -> tuple[Samples, dict[str, str]]:
    """Samples by name and labels, and the type of each family; any line out of shape is an error."""
    samples: Samples = {}
    types: dict[str, str] = {}
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if match := re.fullmatch(r"# TYPE (\w+) (counter|gauge|histogram)", line):
            assert match[1] not in types
            types[match[1]] = match[2]
        elif not re.fullmatch(r"# HELP \w+ .+", line):
            found = SAMPLE.fullmatch(line)
            assert found, line
            labels = frozenset((name, unescaped(value)) for name, value in LABEL.findall(found[2] or ""))
            assert (found[1], labels) not in samples
            samples[found[1], labels] = float(found[3])
    return samples, types


def unescaped(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)


def closed(**values: Any) -> dict[str, object]:
    """A closing ledger event."""
    said = {"model": "m", "route": "chat_completions", "outcome": "succeeded", "status": 200, "admitted_at": 100.0}
    said |= {
        "at": 102.0,
        "first_token_seconds": 0.5,
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "cached_tokens": 0,
        "uncounted": False,
    }
    return said | values


def render(*events: dict[str, object], queues: Any = ()) -> Samples:
    metrics = Metrics()
    for event in events:
        metrics.observe(event)
    return read(metrics.render(queues))[0]


def value(samples: Samples, name: str, **labels: str) -> float:
    """The one sample of that name with at least those labels."""
    found = [number for (known, has), number in samples.items() if known == name and set(labels.items()) <= has]
    assert len(found) == 1, found
    return found[0]


def test_empty_metrics_are_valid() -> None:
    samples, types = read(Metrics().render([]))
    assert samples == {(f"llmariner_{what}_ledger_events_total", frozenset()): 0 for what in ("refused", "lost")}
    assert types["llmariner_requests_total"] == "counter"
    assert sorted(types.values()) == [*["counter"] * 4, "gauge", "gauge", *["histogram"] * 4]


def test_requests_without_reported_usage_are_counted() -> None:
    samples = render(closed(uncounted=True), closed(), closed(uncounted=True))
    assert value(samples, "llmariner_uncounted_requests_total", gen_ai_request_model="m") == 2


def test_requests_are_counted_by_outcome_and_status() -> None:
    samples = render(closed(), closed(), closed(outcome="failed", status=502), closed(route="completions"))
    counts = {
        (dict(labels)["gen_ai_operation_name"], dict(labels)["status"]): number
        for (name, labels), number in samples.items()
        if name == "llmariner_requests_total"
    }
    assert counts == {("chat_completions", "200"): 2, ("chat_completions", "502"): 1, ("completions", "200"): 1}


def test_times_and_tokens_are_summed() -> None:
    samples = render(closed(), closed(at=101.0, first_token_seconds=None, completion_tokens=0))
    assert value(samples, "gen_ai_server_request_duration_seconds_sum") == 3.0
    assert value(samples, "gen_ai_server_request_duration_seconds_count") == 2
    assert value(samples, "gen_ai_server_time_to_first_token_seconds_sum") == 0.5
    assert value(samples, "gen_ai_server_time_per_output_token_seconds_sum") == 0.5
    assert value(samples, "gen_ai_client_token_usage_tokens_sum", gen_ai_token_type="input") == 18
    assert value(samples, "gen_ai_client_token_usage_tokens_sum", gen_ai_token_type="output") == 4


@pytest.mark.parametrize(("duration", "le"), [(0.01, "0.01"), (0.0100001, "0.02"), (81.92, "81.92"), (1000, "+Inf")])
def test_a_value_on_a_bucket_boundary_is_in_that_bucket(duration: float, le: str) -> None:
    samples = render(closed(admitted_at=0.0, at=duration))
    full = {
        dict(labels)["le"]: number
        for (name, labels), number in samples.items()
        if name == "gen_ai_server_request_duration_seconds_bucket"
    }
    assert min((bound for bound in full if full[bound]), key=number) == le


def number(bound: str) -> float:
    return math.inf if bound == "+Inf" else float(bound)


def test_admission_queues_are_gauges() -> None:
    samples = render(queues=[("m", 3, 5), ("n", 0, 0)])
    assert value(samples, "llmariner_requests_running", gen_ai_request_model="m") == 3
    assert value(samples, "llmariner_requests_waiting", gen_ai_request_model="m") == 5
    assert value(samples, "llmariner_requests_waiting", gen_ai_request_model="n") == 0


def bounds(samples: Samples, family: str) -> list[float]:
    found = {number(dict(labels)["le"]) for (name, labels), _ in samples.items() if name == f"{family}_bucket"}
    return sorted(found)


def test_token_buckets_are_powers_of_four() -> None:
    expected = [4.0**power for power in range(11)] + [math.inf]
    assert bounds(render(closed()), "gen_ai_client_token_usage_tokens") == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            closed,
            model=st.text(max_size=8) | st.sampled_from(['a"b', "a\\", "a\nb", "\\n", "ü"]),
            at=st.floats(100, 1e6),
            first_token_seconds=st.none() | st.floats(0, 1e3),
            prompt_tokens=st.integers(0, 2**31),
            completion_tokens=st.integers(0, 2**31),
            status=st.sampled_from([200, 404, 499, 502]),
        ),
        max_size=6,
    )
)
def test_the_text_is_valid_and_buckets_are_cumulative_for_any_values(events: list[dict[str, object]]) -> None:
    samples = render(*events)
    models = {dict(labels)["gen_ai_request_model"] for _, labels in samples if labels}
    assert models == {event["model"] for event in events}
    total = sum(number for (name, _), number in samples.items() if name == "llmariner_requests_total")
    assert total == len(events)
    for (name, labels), count in samples.items():
        if name.endswith("_count"):
            family = name.removesuffix("_count")
            rising = [
                (number(dict(has)["le"]), n)
                for (known, has), n in samples.items()
                if known == f"{family}_bucket" and labels <= has
            ]
            counts = [n for _, n in sorted(rising)]
            assert counts == sorted(counts)
            assert counts[-1] == count


def test_metrics_have_model_names_and_no_users() -> None:
    samples = render(closed(), closed(outcome="failed", status=502, uncounted=True), queues=[("m", 1, 1)])
    named = {name for _, labels in samples for name, _ in labels}
    assert named == {"gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type", "le", "outcome", "status"}
