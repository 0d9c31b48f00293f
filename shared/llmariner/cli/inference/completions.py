"""`llma completions`: the completions endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from llmariner.cli.inference.generation import generate, sampling_options
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["completions"]


@click.group(cls=Group)
def completions() -> None:
    """Let a model continue a text."""


@completions.command()
@click.option("--model", required=True, help="Model id.")
@click.option("--prompt", required=True, help="Text to continue.")
@sampling_options
@pass_session
def create(session: Session, /, model: str, prompt: str, **sampling: Any) -> None:
    """Continue PROMPT and show the text as it is written."""
    generate(session, "completions", {"model": model, "prompt": prompt}, sampling, text_of=_text)


def _text(choice: Mapping[str, Any]) -> str:
    return choice.get("text") or ""
