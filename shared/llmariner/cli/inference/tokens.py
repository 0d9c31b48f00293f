"""`llma tokenize` and `llma detokenize`: convert text to token ids and back."""

from __future__ import annotations

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write_stderr

__all__ = ["detokenize", "tokenize"]


@click.command(cls=Command)
@click.option("--model", required=True, help="Model id.")
@click.option("--prompt", required=True, help="Text to split.")
@pass_session
def tokenize(session: Session, model: str, prompt: str) -> None:
    """Split a text into a model's tokens."""
    answer = session.api().generate("tokenize", {"model": model, "prompt": prompt})
    session.printer.print_message(answer, " ".join(str(token) for token in answer.get("tokens", [])))
    if session.printer.is_table:
        write_stderr(f"{answer.get('count')} tokens; the model takes {answer.get('max_model_len')}.")


@click.command(cls=Command)
@click.option("--model", required=True, help="Model id.")
@click.argument("tokens", type=int, nargs=-1, required=True)
@pass_session
def detokenize(session: Session, model: str, tokens: tuple[int, ...]) -> None:
    """Convert TOKENS back to text."""
    answer = session.api().generate("detokenize", {"model": model, "tokens": list(tokens)})
    session.printer.print_message(answer, str(answer.get("prompt", "")))
