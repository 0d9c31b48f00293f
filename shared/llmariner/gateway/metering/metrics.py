"""Metrics of inference requests in Prometheus' text format, under OpenTelemetry's GenAI names.

Observing is an addition to a list; text is rendered on demand. Source of the names and buckets: OpenTelemetry semantic
conventions for generative AI metrics.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf
from operator import itemgetter
from typing import Any

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)

# How many events are kept before they are counted: less than a millisecond's work.
_MAX_PENDING = 256

Labels = tuple[tuple[str, str], ...]


class _Series:
    """One labeled series of a histogram. `counts`: how many values up to each bound, the last of them infinite."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        self.total = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Count values: sorted, which takes no loop over them in Python."""
        ordered = sorted(values)
        if ordered:
            self.total += sum(ordered)
            self.counts = [
                count + bisect_right(ordered, bound) for count, bound in zip(self.counts, self.bounds, strict=True)
            ]


class _Histogram:
    def __init__(self, name: str, help_: str, bounds: tuple[float, ...]) -> None:
        self.name, self.help, self.bounds = name, help_, bounds
        self._series: dict[Labels, _Series] = {}

    def series(self, labels: Labels) -> _Series:
        return self._series.setdefault(labels, _Series((*self.bounds, inf)))

    def evict(self, labels: Labels) -> None:
        for found in [found for found in self._series if found[: len(labels)] == labels]:
            del self._series[found]

    def lines(self) -> Iterable[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        for labels, series in self._series.items():
            for bound, count in zip(series.bounds, series.counts, strict=True):
                le = "+Inf" if bound == inf else f"{bound:.12g}"
                yield f"{self.name}_bucket{_label_text((*labels, ('le', le)))} {count}"
            yield f"{self.name}_sum{_label_text(labels)} {series.total:.9g}"
            yield f"{self.name}_count{_label_text(labels)} {series.counts[-1]}"


class _ModelSeries:
    """The series of one model on one route, looked up once."""

    __slots__ = ("duration", "input", "labels", "output", "per_token", "time_to_first_token")

    def __init__(self, labels: Labels, metrics: Metrics) -> None:
        self.labels = labels
        self.duration = metrics.duration.series(labels)
        self.time_to_first_token = metrics.time_to_first_token.series(labels)
        self.per_token = metrics.per_token.series(labels)
        self.input = metrics.usage.series((*labels, ("gen_ai_token_type", "input")))
        self.output = metrics.usage.series((*labels, ("gen_ai_token_type", "output")))

    def add(self, events: list[dict[str, Any]]) -> None:
        """Count closing events of this model and route."""
        durations: list[float] = []
        firsts: list[float] = []
        per_token: list[float] = []
        prompts: list[int] = []
        completions: list[int] = []
        for event in events:
            took: float = event["at"] - event["admitted_at"]
            first: float | None = event["first_token_seconds"]
            prompt: int = event["prompt_tokens"]
            completion: int = event["completion_tokens"]
            durations.append(took)
            if prompt:
                prompts.append(prompt)
            if completion:
                completions.append(completion)
            if first is not None:
                firsts.append(first)
                if completion > 1:
                    per_token.append(max(0.0, took - first) / (completion - 1))
        self.duration.add(durations)
        self.time_to_first_token.add(firsts)
        self.per_token.add(per_token)
        self.input.add(prompts)
        self.output.add(completions)


class Metrics:
    """The metrics of one gateway instance."""

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] = []
        self._requests: dict[tuple[str, str, str, int], int] = {}
        self._by_model: dict[tuple[str, str], _ModelSeries] = {}
        self._uncounted: dict[tuple[str, str], int] = {}
        self.rejected_events = 0
        self.lost_events = 0
        self.duration = _Histogram(
            "gen_ai_server_request_duration_seconds", "Time from a request to the end of its answer.", _SECONDS
        )
        self.time_to_first_token = _Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time from a request to its first token.", _FIRST_TOKEN
        )
        self.per_token = _Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time per token after the first.", _PER_TOKEN
        )
        self.usage = _Histogram("gen_ai_client_token_usage_tokens", "Tokens used per request, by kind.", _TOKENS)

    def observe(self, event: dict[str, Any]) -> None:
        """Count a request by its closing ledger event."""
        self._pending.append(event)
        if len(self._pending) >= _MAX_PENDING:
            self._count()

    def _count(self) -> None:
        """Count the pending events. Together they take a fraction of what each would alone."""
        pending, self._pending = self._pending, []
        by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for event in pending:
            by_model.setdefault((event["model"], event["route"]), []).append(event)
        for (model, route), events in by_model.items():
            series = self._by_model.get((model, route))
            if series is None:
                labels = (("gen_ai_operation_name", route), ("gen_ai_request_model", model))
                series = self._by_model[model, route] = _ModelSeries(labels, self)
            series.add(events)
            for (outcome, status), count in Counter(map(itemgetter("outcome", "status"), events)).items():
                key = (model, route, outcome, status)
                self._requests[key] = self._requests.get(key, 0) + count
            if uncounted := sum(map(itemgetter("uncounted"), events)):
                self._uncounted[model, route] = self._uncounted.get((model, route), 0) + uncounted

    def evict(self, model: str) -> None:
        """Drop the series of a model; its counters restart at 0, as after a restart of the instance."""
        self._count()
        for of in [of for of in self._by_model if of[0] == model]:
            labels = self._by_model.pop(of).labels
            self._uncounted.pop(of, None)
            for histogram in (self.duration, self.time_to_first_token, self.per_token, self.usage):
                histogram.evict(labels)
        for key in [key for key in self._requests if key[0] == model]:
            del self._requests[key]

    def render(self, queues: Iterable[tuple[str, int, int]]) -> str:
        """Render all metrics; `queues`: model, requests running, requests waiting."""
        self._count()
        lines = ["# HELP llmariner_requests_total Requests by outcome.", "# TYPE llmariner_requests_total counter"]
        for (model, route, outcome, status), count in self._requests.items():
            labels = (*self._by_model[model, route].labels, ("outcome", outcome), ("status", str(status)))
            lines.append(f"llmariner_requests_total{_label_text(labels)} {count}")
        lines += self._fault_lines()
        for histogram in (self.duration, self.time_to_first_token, self.per_token, self.usage):
            lines += histogram.lines()
        queues = list(queues)
        for name, help_, column in (
            ("llmariner_requests_running", "Requests that an engine works on.", 1),
            ("llmariner_requests_waiting", "Requests in the waiting room.", 2),
        ):
            lines += [f"# HELP {name} {help_}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_label_text((('gen_ai_request_model', queue[0]),))} {queue[column]}" for queue in queues]
        return "\n".join(lines) + "\n"

    def _fault_lines(self) -> Iterable[str]:
        """The counters of metering faults."""
        yield "# HELP llmariner_uncounted_requests_total Requests charged by their bounds: their engine reported no usage."
        yield "# TYPE llmariner_uncounted_requests_total counter"
        for of, count in self._uncounted.items():
            yield f"llmariner_uncounted_requests_total{_label_text(self._by_model[of].labels)} {count}"
        yield "# HELP llmariner_refused_ledger_events_total Events that the ledger would not take."
        yield "# TYPE llmariner_refused_ledger_events_total counter"
        yield f"llmariner_refused_ledger_events_total {self.rejected_events}"
        yield "# HELP llmariner_lost_ledger_events_total Requests that the ledger, away too long, never heard of."
        yield "# TYPE llmariner_lost_ledger_events_total counter"
        yield f"llmariner_lost_ledger_events_total {self.lost_events}"


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
