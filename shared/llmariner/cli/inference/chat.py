"""`llma chat completions`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from llmariner.cli.inference.generation import generate, sampling_options
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["chat"]


@click.group(cls=Group)
def chat() -> None:
    """Talk to a model."""


@chat.group()
def completions() -> None:
    """Chat completions."""


@completions.command()
@click.option("--model", required=True, help="Model id.")
@click.option("--role", "roles", multiple=True, required=True, help="Role of a message (system, user, assistant).")
@click.option(
    "--completion",
    "contents",
    multiple=True,
    required=True,
    help="Its text. Repeat --role and --completion in pairs.",
)
@sampling_options
@pass_session
def create(session: Session, /, model: str, roles: tuple[str, ...], contents: tuple[str, ...], **sampling: Any) -> None:
    """Send messages and show the answer as it is written.

    \b
    llma chat completions create --model MODEL --role user --completion "Why is the sky blue?"
    """
    if len(roles) != len(contents):
        raise click.UsageError(f"--role and --completion come in pairs: got {len(roles)} and {len(contents)}.")
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    generate(session, "chat/completions", {"model": model, "messages": messages}, sampling, text_of=_text)


def _text(choice: Mapping[str, Any]) -> str:
    """The content of a message or delta; for a message with tool calls only, the calls as JSON."""
    if message := choice.get("message"):
        calls = message.get("tool_calls")
        return message.get("content") or (json.dumps(calls, ensure_ascii=False) if calls else "")
    return (choice.get("delta") or {}).get("content") or ""
