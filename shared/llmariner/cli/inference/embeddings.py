"""`llma embeddings`."""

from __future__ import annotations

from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["embeddings"]

_MAX_COMPONENTS_SHOWN = 4
"""The number of vector components in a table; --output json has all."""


@click.group(cls=Group)
def embeddings() -> None:
    """Turn texts into vectors."""


@embeddings.command()
@click.option("--model", required=True, help="Model id.")
@click.option("--input", "texts", required=True, multiple=True, help="Text to embed; repeat for several.")
@click.option(
    "--dimensions",
    metavar="N",
    type=click.IntRange(min=1),
    help="Length of the vectors, for models that can shorten them.",
)
@pass_session
def create(session: Session, model: str, texts: tuple[str, ...], dimensions: int | None) -> None:
    """Embed texts. A table shows the beginning of each vector, --output json all of it."""
    from llmariner.cli.support.output import Column

    body: dict[str, Any] = {"model": model, "input": list(texts)}
    if dimensions is not None:
        body["dimensions"] = dimensions
    answer = session.api().generate("embeddings", body)
    columns = [
        Column.of("index"),
        Column("TEXT", lambda item: texts[item["index"]][:40]),
        Column("DIMENSIONS", lambda item: len(item["embedding"]), right=True),
        Column("VECTOR", lambda item: _truncated(item["embedding"])),
    ]
    session.printer.print_records(answer, answer.get("data", []), columns, empty="No embeddings.")


def _truncated(vector: list[float]) -> str:
    shown = " ".join(f"{component:+.4f}" for component in vector[:_MAX_COMPONENTS_SHOWN])
    return f"{shown} …" if len(vector) > _MAX_COMPONENTS_SHOWN else shown
