"""`llma batch jobs exec`: a program in a running job."""

from __future__ import annotations

import base64
import sys
from typing import Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.session import Session

__all__ = ["exec_in_job"]


@click.command("exec", cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("job", metavar="ID")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "--stdin", "has_input", is_flag=True, help="Give it what stands on standard input, up to 1 MB.")
@pass_session
def exec_in_job(session: Session, job: str, command: tuple[str, ...], has_input: bool) -> None:
    """Run a program in a running job.

    `llma batch jobs exec ID -- nvidia-smi` is an example. The command ends with the exit code of the program.
    """
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.errors import CommandError, ExitCode
    from llmariner.cli.support.response_bodies import parse_json
    from llmariner.cli.support.server_sent_events import Event
    from llmariner.cli.support.terminal import OutputStream

    body: dict[str, Any] = {"command": list(command)}
    if has_input:
        body["stdin"] = base64.b64encode(sys.stdin.buffer.read()).decode()
    streams = {"stdout": OutputStream(sys.stdout), "stderr": OutputStream(sys.stderr)}
    with session.api().stream(build_path("batch", "jobs", job, "exec"), body) as frames:
        for event in (parse_json(frame.data) for frame in frames if isinstance(frame, Event)):
            if event["type"] == "output":
                streams[event["stream"]].write(base64.b64decode(event["data"]))
            elif event["type"] == "exit" and event["exit_code"] is not None:
                click.get_current_context().exit(event["exit_code"])
            else:
                raise CommandError(
                    ExitCode.REJECTED, event.get("message") or "the job ended before the program.", next_step=""
                )
    raise CommandError(
        ExitCode.SERVER_ERROR, "the stream ended before the program.", next_step="run it again if the job still runs."
    )
