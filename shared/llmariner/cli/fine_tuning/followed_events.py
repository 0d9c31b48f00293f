"""The events of a job as they come, over as many connections as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.server_sent_events import Comment, Event

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["follow_events", "is_passing"]

_STALLED_SECONDS = 60.0
"""Heartbeats come every 15 seconds."""
_PAUSE_SECONDS = 1.0
_DONE = "[DONE]"


def follow_events(
    api: ApiClient, path: str, on_problem: Callable[[CommandError], None]
) -> Iterator[Mapping[str, Any] | None]:
    """The events of the job at `path`, oldest first, until it has ended; None for a sign of life without an event.

    A connection that breaks is made again, from after the last event: `on_problem` is called with each failure. Raises
    CommandError where the API refuses.
    """
    after: str | None = None
    while True:
        try:
            with api.event_stream(f"{path}/events", _STALLED_SECONDS, stream="true", after=after) as frames:
                for frame in frames:
                    if isinstance(frame, Comment):
                        yield None
                    elif frame.data == _DONE:
                        return
                    else:
                        event = _event(frame)
                        after = event["id"]
                        yield event
        except CommandError as error:
            if not is_passing(error):
                raise
            on_problem(error)
        # The server ends a stream after an hour, and one that was cut off looks the same.
        time.sleep(_PAUSE_SECONDS)


def is_passing(error: CommandError) -> bool:
    """Whether the same request may succeed later: the server restarts, or the network is away."""
    return error.code in (ExitCode.SERVER_ERROR, ExitCode.UNREACHABLE)


def _event(frame: Event) -> dict[str, Any]:
    """The object of an event. Raises CommandError for an error, and for what is no event."""
    try:
        document = json.loads(frame.data)
        if "error" not in document:
            return {**document, "id": str(document["id"])}
        message, kind = str(document["error"]["message"]), document["error"]["type"]
    except (ValueError, TypeError, KeyError):
        message, kind = "The server sent an event of another form.", "server_error"
    code = ExitCode.SERVER_ERROR if kind == "server_error" else ExitCode.DENIED
    raise CommandError(code, message, next_step="`llma fine-tuning jobs get` shows the job.")
