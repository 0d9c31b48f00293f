"""`llma admin limits`: rate limits, and shares of the waiting room."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_limits
from llmariner.cli.support.session import Session
from llmariner.cli.support.subjects import display_names, resolve_subject, subject_label, subject_options

__all__ = ["limits"]

MEASURES = (
    "requests_per_minute",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
    "queue_share",
)


class _Measure(click.ParamType[Any]):
    """A whole number, or `none` for no limit."""

    name = "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "none" or isinstance(value, int):
            return value
        if not (str(value).isascii() and str(value).isdigit()):
            self.fail(f"{value!r} is neither a whole number nor 'none'.", param, ctx)
        return int(value)


@click.group(cls=Group)
def limits() -> None:
    """Limits of the organization, its projects, users and keys."""


@limits.command("list")
@pass_session
def list_limits(session: Session) -> None:
    """List the limits that you may see, with their current use."""
    from llmariner.cli.support.output import Column

    api = session.api()
    names = display_names(session, api) if session.printer.is_table else {}
    document = api.get("limits")
    columns = [
        Column.of("id"),
        Column("FOR", subject_label(names)),
        Column.of("model"),
        *(
            Column(measure.replace("_per_", "/").replace("_", " ").upper(), _cell(measure), True)
            for measure in MEASURES
        ),
    ]
    session.printer.print_records(document, document["data"], columns, empty="There are no limits.")


@limits.command("set")
@subject_options
@click.option("--model", metavar="ID", default="*", help="One model; else all of them together.")
@click.option("--requests-per-minute", type=_Measure())
@click.option("--requests-per-day", type=_Measure())
@click.option("--tokens-per-minute", type=_Measure())
@click.option("--tokens-per-day", type=_Measure())
@click.option("--concurrent-requests", type=_Measure(), help="At the same time.")
@click.option("--queue-share", type=_Measure(), help="Share of waiting rooms; for a project or the organization.")
@pass_session
def set_limit(
    session: Session, /, project: str | None, user: str | None, key: str | None, model: str, **measures: Any
) -> None:
    """Set limits for the organization, a project, a user or a key.

    Limits that are not given stay unchanged.
    """
    changes = {name: None if value == "none" else value for name, value in measures.items() if value is not None}
    if not changes:
        raise click.UsageError("Say what is limited, such as --requests-per-minute 60.")
    api = session.api()
    created = api.post("limits", {**resolve_subject(session, api, (project, user, key)), "model": model, **changes})
    session.printer.print_message(
        created, f"Limited {created.get('subject')} {created.get('subject_id')} ({created.get('id')})."
    )


@limits.command()
@click.argument("limit", metavar="ID", shell_complete=complete_limits)
@pass_session
def delete(session: Session, limit: str) -> None:
    """Delete limits."""
    from llmariner.cli.support.api import build_path

    answer = session.api().delete(build_path("limits", limit))
    session.printer.print_message(answer, f"Took the limits {limit} away.")


def _cell(measure: str) -> Any:
    """A cell function: used and allowed, such as `12/60`."""

    def cell(each: Any) -> str | None:
        allowed = each.get(measure)
        used = (each.get("used") or {}).get(measure)
        return None if allowed is None else f"{used}/{allowed}" if used is not None else str(allowed)

    return cell
