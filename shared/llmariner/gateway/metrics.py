"""Metrics of the token path in Prometheus' text form, under OpenTelemetry's GenAI names.

Counting is an addition to a list; text is made when somebody asks. Source of the names and buckets: OpenTelemetry
semantic conventions for generative AI metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self, name: str, help_: str, bounds: tuple[float, ...]) -> None:
        self.name, self.help, self.bounds = name, help_, bounds
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, labels: Labels, value: float) -> None:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = ([0] * (len(self.bounds) + 1), [0.0])
        series[0][bisect_left(self.bounds, value)] += 1
        series[1][0] += value

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        for labels, (counts, total) in self._series.items():
            running = 0
            for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
                running += count
                le = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{self.name}_bucket{_text((*labels, ('le', le)))} {running}"
            yield f"{self.name}_sum{_text(labels)} {total[0]:.9g}"
            yield f"{self.name}_count{_text(labels)} {running}"


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._requests: dict[Labels, int] = {}
        self._duration = _Histogram(
            "gen_ai_server_request_duration_seconds", "Time from a request to the end of its answer.", _SECONDS
        )
        self._first = _Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time from a request to its first token.", _FIRST_TOKEN
        )
        self._per = _Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time per token after the first.", _PER_TOKEN
        )
        self._usage = _Histogram("gen_ai_client_token_usage_tokens", "Tokens used per request, by kind.", _TOKENS)

    def closed(self, event: dict[str, object]) -> None:
        """Count a request by its closing ledger event."""
        model, route = str(event["model"]), str(event["route"])
        outcome = str(event["outcome"])
        labels: Labels = (("gen_ai_operation_name", route), ("gen_ai_request_model", model))
        key: Labels = (*labels, ("outcome", outcome), ("status", str(event["status"])))
        self._requests[key] = self._requests.get(key, 0) + 1
        duration = float(event["at"]) - float(event["admitted_at"])  # type: ignore[arg-type]
        self._duration.observe(labels, duration)
        first, completion = event["first_token_seconds"], int(event["completion_tokens"])  # type: ignore[call-overload]
        if isinstance(first, float):
            self._first.observe(labels, first)
            if completion > 1:
                self._per.observe(labels, (duration - first) / (completion - 1))
        for kind, count in (("input", event["prompt_tokens"]), ("output", completion)):
            if count:
                self._usage.observe((*labels, ("gen_ai_token_type", kind)), float(count))  # type: ignore[arg-type]

    def text(self, rooms: Iterable[tuple[str, int, int]]) -> str:
        """All metrics; `rooms`: engine, requests running, requests waiting."""
        lines = ["# HELP llmariner_requests_total Requests by outcome.", "# TYPE llmariner_requests_total counter"]
        lines += [f"llmariner_requests_total{_text(labels)} {count}" for labels, count in self._requests.items()]
        for histogram in (self._duration, self._first, self._per, self._usage):
            lines += histogram.lines()
        rooms = list(rooms)
        for name, help_, column in (
            ("llmariner_requests_running", "Requests that an engine works on.", 1),
            ("llmariner_requests_waiting", "Requests in the waiting room.", 2),
        ):
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_text((('gen_ai_request_model', room[0]),))} {room[column]}" for room in rooms]
        return "\n".join(lines) + "\n"


def _text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
