"""The sampling options and the streamed output of chat and text completions.

Text goes to stdout and progress to stderr, so that `llma chat completions create … > answer.txt` stores only the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmariner.cli.support.errors import CommandError, ExitCode, format_progress
from llmariner.cli.support.response_bodies import parse_json
from llmariner.cli.support.terminal import StatusLine, write_stdout

if TYPE_CHECKING:
    from llmariner.cli.support.server_sent_events import Frame
    from llmariner.cli.support.session import Session

__all__ = ["TextOf", "generate", "sampling_options"]

F = TypeVar("F", bound=Callable[..., Any])

TextOf = Callable[[Mapping[str, Any]], str]
"""Extracts the text from a choice of a response or of a stream chunk."""

_SAMPLING = (
    click.option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="Most tokens to write."),
    click.option(
        "--temperature", metavar="N", type=click.FloatRange(0, 2), help="0 is the likeliest text; higher varies more."
    ),
    click.option(
        "--top-p",
        metavar="N",
        type=click.FloatRange(0, 1),
        help="Sample from the likeliest tokens of this total probability.",
    ),
    click.option("--stop", multiple=True, help="Text that ends the answer; repeat for several."),
    click.option(
        "--presence-penalty",
        metavar="N",
        type=click.FloatRange(-2, 2),
        help="Above 0: favor what was not yet mentioned.",
    ),
    click.option(
        "--frequency-penalty", metavar="N", type=click.FloatRange(-2, 2), help="Above 0: avoid repeating words."
    ),
    click.option("--nostream", is_flag=True, help="Print the answer when it is complete."),
)


def sampling_options(command: F) -> F:
    """Add the sampling options and --nostream. Options that are not given are not sent, so the model's defaults apply."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def generate(
    session: Session, path: str, request: Mapping[str, Any], sampling: Mapping[str, Any], *, text_of: TextOf
) -> None:
    """Send the request and print the answer. It streams for tables only: JSON and YAML need one document."""
    options = dict(sampling)
    nostream = options.pop("nostream")
    options["stop"] = list(options["stop"]) or None
    body = {**request, **{name: value for name, value in options.items() if value is not None}}
    api, printer = session.api(), session.printer
    if nostream or not printer.is_table:
        answer = api.generate(path, body)
        printer.print_message(answer, "\n".join(text_of(choice) for choice in _choices(answer)))
        return
    with api.stream(path, {**body, "stream": True}) as frames:
        _print_stream(frames, text_of)


def _print_stream(frames: Iterable[Frame], text_of: TextOf) -> None:
    status = StatusLine()
    writer = _AnswerWriter(status)
    try:
        for frame in frames:
            if writer.handle_frame(frame, text_of):
                break
        else:
            raise CommandError(
                ExitCode.SERVER_ERROR,
                "the answer broke off before its end.",
                next_step="try again; `llma status` and `llma logs` tell whether the engine went down.",
            )
    finally:
        writer.close()
    if writer.finish_reason == "length":
        click.echo("The answer was cut at its token limit; raise it with --max-tokens.", err=True)


class _AnswerWriter:
    """Prints a streamed answer: first the progress line, then text."""

    def __init__(self, status: StatusLine) -> None:
        self._status = status
        self._last = ""
        self.finish_reason = ""

    def handle_frame(self, frame: Frame, text_of: TextOf) -> bool:
        """Print one frame; returns whether it was the last."""
        from llmariner.cli.support.server_sent_events import Comment

        if isinstance(frame, Comment):
            self._show_progress(_parse_object(frame.text))
            return False
        if frame.data == "[DONE]":
            return True
        chunk = _parse_object(frame.data)
        if error := chunk.get("error"):
            raise _stream_error(error)
        for choice in _choices(chunk):
            self._write(text_of(choice))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return False

    def close(self) -> None:
        """Clear the progress line, and end the last line of text."""
        self._status.clear()
        if self._last and not self._last.endswith("\n"):
            click.echo()

    def _show_progress(self, fields: Mapping[str, Any]) -> None:
        if not self._last and (line := format_progress(fields)):
            self._status.show(f"waiting for the model: {line}", key=str(fields.get("phase")))

    def _write(self, text: str) -> None:
        if text:
            self._status.clear()
            write_stdout(text, end="")
            self._last = text


def _stream_error(error: object) -> CommandError:
    """The CommandError of an error inside a stream. Its type decides the exit code, since the HTTP status was 200."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    is_client_error = fields.get("type") == "invalid_request_error"
    code = f" [{fields['code']}]" if fields.get("code") else ""
    return CommandError(
        ExitCode.REJECTED if is_client_error else ExitCode.SERVER_ERROR,
        f"{fields.get('message', 'the stream ended with an error')}{code}",
        next_step="change the request as the message says."
        if is_client_error
        else "`llma status` and `llma logs` tell more.",
    )


def _choices(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    choices = answer.get("choices")
    return choices if isinstance(choices, list) else []


def _parse_object(text: str) -> dict[str, Any]:
    """The JSON object; empty for any other text, such as a keep-alive comment."""
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
