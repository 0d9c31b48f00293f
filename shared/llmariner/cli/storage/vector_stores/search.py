"""`llma storage vector-stores search`: the passages of vector stores that fit a query."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.resolvers import complete_vector_stores, resolve_vector_store
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import strip_control_characters

if TYPE_CHECKING:
    from llmariner.cli.support.output import Printer

__all__ = ["search"]

_SHOWN_CHARACTERS = 300
_TIMEOUT_SECONDS = 180.0
"""The embedding model may have to wake first."""


@click.command(cls=Command)
@click.argument("store", metavar="NAME_OR_ID", shell_complete=complete_vector_stores)
@click.argument("query")
@click.option(
    "--also-in",
    "others",
    metavar="NAME_OR_ID",
    multiple=True,
    shell_complete=complete_vector_stores,
    help="Search another store, too, in one ranking. Repeat it for several, up to 10 in all.",
)
@click.option("--max-results", metavar="N", type=click.IntRange(1, 50), help="Results at most, 1 to 50. Default: 10.")
@click.option(
    "--score-threshold", metavar="X", type=click.FloatRange(0, 1), help="Only results with this score or more, 0 to 1."
)
@click.option(
    "--filter",
    "filters",
    metavar="JSON",
    help="""Condition on attributes: {"type": "eq", "key": "year", "value": 2026}.""",
)
@click.option("--rewrite-query", is_flag=True, help="Let the platform reword the query for the search.")
@pass_session
def search(
    session: Session,
    store: str,
    query: str,
    others: tuple[str, ...],
    max_results: int | None,
    score_threshold: float | None,
    filters: str | None,
    rewrite_query: bool,
) -> None:
    """Show the passages of vector stores that fit QUERY."""
    from llmariner.cli.support.api import build_path

    body: dict[str, Any] = {"query": query}
    if max_results is not None:
        body["max_num_results"] = max_results
    if score_threshold is not None:
        body["ranking_options"] = {"score_threshold": score_threshold}
    if filters is not None:
        body["filters"] = _parsed(filters)
    if rewrite_query:
        body["rewrite_query"] = True
    api = session.api()
    stores = [resolve_vector_store(api, name) for name in (store, *others)]
    path = build_path("vector_stores", stores[0]["id"], "search")
    if others:
        path, body["vector_store_ids"] = "vector_stores/search", [each["id"] for each in stores]
    document = api.post(path, body, timeout_seconds=_TIMEOUT_SECONDS)
    _print(session.printer, document, {each["id"]: each["name"] or each["id"] for each in stores} if others else {})


def _print(printer: Printer, document: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """A table, or on a terminal, where its columns are too narrow for text, a paragraph for each passage.

    `names`: of the stores by id, where results say theirs.
    """
    from llmariner.cli.support.output import Column, format_number

    results = document["data"]
    if printer.is_table and results and sys.stdout.isatty():
        _print_paragraphs(printer, results, names)
        return
    columns = [
        Column("SCORE", lambda result: format_number(result.get("score"), 3), right=True),
        *([Column("STORE", lambda result: _store(result, names))] if names else []),
        Column.of("filename", "FILE"),
        Column("PAGE", _page, right=True),
        Column("FOUND BY", _found_by),
        Column("TEXT", _excerpt),
    ]
    printer.print_records(document, results, columns, empty="Nothing fits.")


def _print_paragraphs(printer: Printer, results: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from llmariner.cli.support.output import format_number

    grid = Table.grid(padding=(0, 3, 1, 0), collapse_padding=False)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for result in results:
        page = _page(result)
        store = f"{_store(result, names)}: " if names else ""
        file = store + str(result.get("filename") or "-") + ("" if page is None else f", page {page}")
        parts = ((file, "bold"), (f"   {_found_by(result)}\n", "dim"), (_excerpt(result), ""))
        passage = Text.assemble(*((strip_control_characters(text), style) for text, style in parts))
        grid.add_row(format_number(result.get("score"), 3) or "-", passage)
    printer.console().print(grid)


def _store(result: Mapping[str, Any], names: Mapping[str, str]) -> str:
    id_ = str(result.get("vector_store_id"))
    return names.get(id_, id_)


def _page(result: Mapping[str, Any]) -> int | None:
    page = (result.get("chunk") or {}).get("page")
    return None if page is None else int(page)


def _parsed(filters: str) -> dict[str, Any]:
    try:
        parsed = json.loads(filters)
    except ValueError as error:
        raise click.UsageError(f"--filter is not JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise click.UsageError("--filter is a JSON object with `type`.")
    return parsed


def _found_by(result: Mapping[str, Any]) -> str:
    """The halves of the search that found it, with its place in each: `similarity 1, words 3`."""
    found_by = result.get("found_by") or {}
    halves = (("similarity", found_by.get("vector")), ("words", found_by.get("text")))
    return ", ".join(f"{name} {half.get('rank')}" for name, half in halves if half)


def _excerpt(result: Mapping[str, Any]) -> str:
    text = " ".join(" ".join(str(part.get("text") or "") for part in result.get("content") or []).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
