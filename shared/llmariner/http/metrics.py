"""Metrics of the platform's own state in Prometheus' text format."""

from __future__ import annotations

from llmariner.platform.events.publish_queue import Backlog

__all__ = ["backlog_metrics"]


def backlog_metrics(backlog: Backlog) -> str:
    """The number of events that the Broker has not accepted, and the age of the oldest."""
    measures = (
        ("llmariner_outbox_events", "Events that the Broker has not taken yet.", backlog.events),
        (
            "llmariner_outbox_oldest_seconds",
            "How long the oldest of them has waited.",
            round(backlog.oldest_seconds, 3),
        ),
    )
    return "".join(f"# HELP {name} {what}\n# TYPE {name} gauge\n{name} {value}\n" for name, what, value in measures)
