"""What is known of a job that is watched, and the picture of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmariner.cli.support.terminal import stdout_is_unicode, strip_control_characters

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["Progress", "event_line", "summary_line", "view"]

_CHART_HEIGHT, _MAX_WIDTH = 14, 110
_OTHER_LINES = 9
"""Of the picture beside the chart."""
_STYLES = {"succeeded": "green", "failed": "red", "cancelled": "red", "running": "cyan", "paused": "yellow"}


@dataclass
class Progress:
    """`job`: the latest document.

    Losses, or rewards by the `measure`, are by step, so that a step that is reported again replaces itself.
    """

    job: Mapping[str, Any]
    training: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    measure: str = "loss"
    message: str = ""
    problem: str = ""
    # What is drawn live replaces stdout with an object that knows no encoding.
    unicode: bool = field(default_factory=stdout_is_unicode)

    def add(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the job."""
        self.problem = ""
        data = event.get("data") or {}
        if event.get("type") != "metrics":
            self.message = str(event.get("message") or "")
            return
        step = data.get("step")
        rewarded = "train_reward_mean" in data
        self.measure = "reward" if rewarded else "loss"
        names = ("train_reward_mean", "valid_reward_mean") if rewarded else ("train_loss", "valid_loss")
        for values, name in zip((self.training, self.validation), names, strict=True):
            if isinstance(step, int) and isinstance(data.get(name), int | float):
                values[step] = float(data[name])


def event_line(event: Mapping[str, Any]) -> str:
    """An event as a line for a pipe or a log: local time, level, message, and what a step measured."""
    data = event.get("data") or {}
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("created_at") or 0))
    shown = [f"{label}={data[name]:.4f}" for name, label in _MEASURED if isinstance(data.get(name), int | float)]
    speed = data.get("tokens_per_second")
    shown += [f"{speed:.0f} tokens/s"] if isinstance(speed, int | float) else []
    return f"{at}  {event.get('level') or '':5}  {', '.join([str(event.get('message') or ''), *shown])}"


_MEASURED = (
    ("valid_loss", "validation loss"),
    ("full_valid_loss", "full validation loss"),
    ("valid_reward_mean", "validation reward"),
    ("kl_divergence", "divergence"),
)


def summary_line(job: Mapping[str, Any]) -> str:
    """Where a job stands: such as `queued, place 2: Jobs run before it. Estimate: 3,000 tokens, 1 min 1 s, $0.01`."""
    queue, error = job.get("queue") or {}, job.get("error") or {}
    place = f", place {queue['place']}" if queue.get("place") else ""
    why = f": {queue['reason']}" if queue.get("reason") else ""
    said = f"{job.get('status')}{place}{why}"
    if error.get("message"):
        said += f": {error['message']}"
    if job.get("fine_tuned_model"):
        said += f": {job['fine_tuned_model']}"
    estimate = _estimate(job)
    return f"{said.rstrip('.')}. Estimate: {estimate}" if estimate and not job.get("finished_at") else said


def view(progress: Progress, width: int, height: int) -> RenderableType:
    """The picture: where the job stands, its progress, its losses, its last message."""
    from rich.console import Group
    from rich.text import Text

    job = progress.job
    status = _clean(job.get("status"))
    head = Text.assemble(
        (_clean(job.get("id")), "bold"),
        f"  {_clean(job.get('model'))}  {_clean((job.get('method') or {}).get('type'))}",
    )
    waiting = summary_line({**job, "estimate": None}).removeprefix(status)
    parts: list[RenderableType] = [head, Text.assemble((status, _STYLES.get(status, "")), _clean(waiting))]
    estimate = _estimate(job)
    parts += [
        Text(line)
        for line in (
            _progress_line(job, unicode=progress.unicode),
            _spent_line(job),
            estimate and f"estimate: {estimate}",
        )
        if line
    ]
    chart = _chart(progress, min(width, _MAX_WIDTH) - 1, min(_CHART_HEIGHT, height - _OTHER_LINES))
    parts += [Text(), chart, _legend(progress)] if chart else []
    footer = Text(_clean(progress.problem or progress.message), style="red" if progress.problem else "dim")
    for text in (head, footer):
        text.no_wrap, text.overflow = True, "ellipsis"
    hint = Text("" if job.get("finished_at") else "ctrl-C ends the watching, not the job", style="dim")
    return Group(*parts, Text(), footer, hint)


def _progress_line(job: Mapping[str, Any], *, unicode: bool) -> str:
    done = job.get("progress") or {}
    total, step = done.get("total_steps"), done.get("step") or 0
    if not total:
        return ""
    full, empty = ("█", "░") if unicode else ("#", ".")
    filled = round(30 * min(1.0, step / total))
    return f"step {step:,} of {total:,}  {full * filled}{empty * (30 - filled)}  {100 * step // total} %"


def _spent_line(job: Mapping[str, Any]) -> str:
    estimate = job.get("estimate") or {}
    left, trained = estimate.get("seconds_left"), (job.get("progress") or {}).get("trained_tokens") or 0
    shown = [f"{trained:,} tokens trained"] if trained else []
    if cost := job.get("cost_usd"):
        shown.append(f"${_dollars(cost)} so far")
    if left is not None and job.get("status") == "running":
        shown.append(f"about {_duration(left)} left")
    return ", ".join(shown)


def _estimate(job: Mapping[str, Any]) -> str:
    estimate = job.get("estimate") or {}
    if not estimate.get("tokens"):
        return ""
    seconds, cost = estimate.get("seconds"), estimate.get("cost_usd")
    graded = (estimate.get("gate") or {}).get("answers")
    parts = [
        f"{estimate['tokens']:,} tokens",
        *([f"{graded:,} graded answers"] if graded else []),
        *([] if seconds is None else [_duration(seconds)]),
    ]
    return ", ".join([*parts, *([f"${_dollars(cost)}"] if cost else [])])


def _chart(progress: Progress, width: int, height: int) -> Text | None:
    from rich.text import Text

    from llmariner.cli.fine_tuning.loss_chart import draw

    total = (progress.job.get("progress") or {}).get("total_steps") or max(progress.training, default=1)
    if height < 4 or not progress.training:
        return None
    points = (sorted(progress.training.items()), sorted(progress.validation.items()))
    chart = draw(*points, total, width=width, height=height, unicode=progress.unicode)
    text = Text(no_wrap=True)
    for number, line in enumerate(chart.lines):
        shown = Text(line, style="cyan")
        for row, column in chart.crosses:
            if row == number:
                shown.stylize("yellow", column, column + 1)
        text.append_text(shown).append("\n" if number < len(chart.lines) - 1 else "")
    return text


def _legend(progress: Progress) -> Text:
    from rich.text import Text

    last = progress.training[max(progress.training)]
    text = Text.assemble(" " * 9, (f"training {progress.measure} {last:.4f}", "cyan"))
    if progress.validation:
        cross = "×" if progress.unicode else "x"
        last = progress.validation[max(progress.validation)]
        text.append_text(Text.assemble("   ", (f"{cross} validation {progress.measure} {last:.4f}", "yellow")))
    return text


def _duration(seconds: float) -> str:
    """Such as `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _dollars(value: float) -> str:
    from llmariner.cli.support.output import format_dollars

    return format_dollars(value) or "?"


def _clean(value: Any) -> str:
    return strip_control_characters("" if value is None else str(value)).replace("\n", " ")
