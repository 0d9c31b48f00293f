"""The errors of commands: one exception, the exit codes, and the next step for each error response.

This module alone maps HTTP statuses and error codes to exit codes and messages.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from llmariner.cli.support.response_bodies import parse_json
from llmariner.cli.support.terminal import strip_control_characters

__all__ = ["CommandError", "ErrorResponse", "ExitCode", "api_error", "format_progress"]


class ExitCode(enum.IntEnum):
    """The exit codes of `llma`; `llma --help` lists them."""

    OK = 0
    REJECTED = 1
    USAGE = 2
    DENIED = 3
    NOT_FOUND = 4
    SERVER_ERROR = 5
    UNREACHABLE = 6
    OUTPUT_ERROR = 7
    INTERRUPTED = 130
    PIPE_CLOSED = 141

    @property
    def meaning(self) -> str:
        """The description in the help text."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.REJECTED: "the API refused the request (4xx)",
    ExitCode.USAGE: "the command line or the configuration file is wrong",
    ExitCode.DENIED: "not authenticated or not authorized (401, 403)",
    ExitCode.NOT_FOUND: "no such thing (404)",
    ExitCode.SERVER_ERROR: "the server or an engine is in trouble (5xx, or a broken answer)",
    ExitCode.UNREACHABLE: "no server answers at the endpoint; `llma up` starts one here",
    ExitCode.OUTPUT_ERROR: "the output could not be written",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.PIPE_CLOSED: "the reader of the output went away, such as `head`",
}


class CommandError(Exception):
    """A failed command, with the exit code, a message and the next step for the user.

    `response`: the API's error response, if one is the cause.
    """

    def __init__(
        self,
        code: ExitCode,
        message: str,
        *,
        next_step: str,
        request_id: str | None = None,
        response: ErrorResponse | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.request_id = request_id
        self.response = response

    def show(self) -> None:
        """Print at most three lines on stderr; stdout is reserved for output that programs parse."""
        lines = [f"Error: {self.message}", f"Next: {self.next_step}"]
        if self.request_id:
            lines.append(f"Request: {self.request_id}")
        click.echo(strip_control_characters("\n".join(lines)), err=True)


@dataclass(frozen=True)
class ErrorResponse:
    """The parts of an HTTP response without success."""

    status: int
    message: str
    code: str
    request_id: str | None
    retry_after: str | None

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str], body: bytes) -> ErrorResponse:
        """Parse OpenAI's error envelope; without one, the first line of the body, which a proxy may have sent."""
        error = _envelope(body)
        message = (
            str(error.get("message") or "") or _first_line(body) or f"the server answered {status} and said nothing"
        )
        if progress := format_progress(error):
            message = f"{message} ({progress})"
        return cls(
            status=status,
            message=message,
            code=str(error.get("code") or ""),
            request_id=headers.get("x-request-id"),
            retry_after=headers.get("retry-after"),
        )


def api_error(response: ErrorResponse, *, key_source: str | None) -> CommandError:
    """The CommandError for an error response. `key_source`: where the key came from, None if none was sent."""
    note = ", ".join(dict.fromkeys(part for part in (str(response.status), response.code) if part))
    return CommandError(
        _exit_code(response.status),
        f"{response.message.rstrip()} [{note}]",
        next_step=_next_step(response, key_source),
        request_id=response.request_id,
        response=response,
    )


def format_progress(serving_status: Mapping[str, Any]) -> str:
    """A model's progress such as `loading, 45%, about 12 s left`; empty if unknown."""
    phase = str(serving_status.get("phase") or "")
    parts = [phase] if phase else []
    if phase in ("asleep", "ready", "stopping", "failed"):  # without a transition the numbers mean nothing
        return phase
    progress, estimate = serving_status.get("progress"), serving_status.get("estimate_seconds")
    if isinstance(progress, int | float) and progress:
        parts.append(f"{progress:.0%}")
    if isinstance(estimate, int | float) and estimate >= 1:
        parts.append(f"about {estimate:.0f} s left")
    return ", ".join(parts)


def _exit_code(status: int) -> ExitCode:
    if status in (401, 403):
        return ExitCode.DENIED
    if status == 404:
        return ExitCode.NOT_FOUND
    return ExitCode.SERVER_ERROR if status >= 500 else ExitCode.REJECTED


def _next_step(response: ErrorResponse, key_source: str | None) -> str:
    if response.code in _NEXT_STEPS_BY_CODE:
        return _NEXT_STEPS_BY_CODE[response.code]
    if response.status == 401:
        return _credential_next_step(key_source)
    if response.retry_after and response.status in (408, 429, 503):
        return f"run the same command again in {response.retry_after} s."
    if 300 <= response.status < 400:
        return "give the address it points to as --endpoint."
    if response.status >= 500:
        return "look at `llma status` and `llma logs`; the request id finds the request in the log."
    return _NEXT_STEPS_BY_STATUS.get(
        response.status, "change the request as the message says; `--help` lists what the command takes."
    )


def _credential_next_step(key_source: str | None) -> str:
    if key_source is None:
        return "sign in with `llma auth login`, set LLMARINER_API_KEY, or `llma context set --api-key -`."
    return f"the key came from {key_source}; check it with `llma auth token`, or ask for a new one."


_NEXT_STEPS_BY_CODE = {
    "model_not_found": "`llma models list` shows the ids this server knows; `llma models pull ID` adds one.",
    "unknown_url": "check --endpoint: it ends in /v1 (`llma context get` shows the one in use).",
    "invalid_token": "sign in again with `llma auth login`.",
    "token_expired": "sign in again with `llma auth login`.",
    "account_linked": "once that is done, sign in again with `llma auth login`.",
    "account_unlinked": "sign in again with `llma auth login`.",
    "email_not_verified": "once that is done, sign in again with `llma auth login`.",
    "storage_quota_exceeded": "delete files that nobody needs (`llma storage files list`), or ask an operator for more.",
    "quota_set_by_operator": "ask an owner of the default organization, who runs the installation.",
    "organization_quota_exceeded": "`llma admin quota list` shows what the organization has.",
    "upload_in_progress": "run the same command again in a minute.",
    "insufficient_quota": "`llma usage list` shows what used it up; an administrator can raise the budget.",
}

_NEXT_STEPS_BY_STATUS = {
    403: "ask for a key with the scope this needs (`llma auth api-keys create NAME --scope SCOPE`).",
    404: "check the id; the `list` command beside this one shows what there is.",
    405: "this server does not offer that; compare `llma version` with the server's.",
    409: "list what exists already, or choose another name.",
    413: "send less in one request.",
    429: "wait a moment, then run the same command again.",
}


def _envelope(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _first_line(body: bytes) -> str:
    """The first line of a body that is not JSON; of a proxy's error page it suffices to recognize the proxy."""
    for line in body.decode("utf-8", "replace").splitlines():
        if line.strip():
            return line.strip()[:200]
    return ""
