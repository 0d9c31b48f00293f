"""`llma up`, `down`, `doctor` and `logs`: the commands that act on this machine instead of on an endpoint.

The platform is `llmariner.standalone`. It is imported only when one of them runs, because an installation of the
command line alone does not have its dependencies.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session

__all__ = ["doctor", "down", "logs", "up"]


@click.command(cls=Command)
@click.option("--foreground", is_flag=True, help="Stay in this terminal and log to it; ctrl-C stops the platform.")
def up(foreground: bool) -> None:
    """Start the platform on this machine."""
    with _daemon() as daemon:
        daemon.up(foreground=foreground)


@click.command(cls=Command)
@pass_session
def down(session: Session) -> None:
    """Stop the platform on this machine."""
    with _daemon() as daemon:
        stopped: bool = daemon.down()
    session.printer.print_message({"stopped": stopped}, "Stopped." if stopped else "It was not running.")


@click.command(cls=Command)
@pass_session
def doctor(session: Session) -> None:
    """Check this machine, and show how to fix problems."""
    from llmariner.cli.support.output import Column

    with _daemon():
        found = _import_standalone("doctor").checks()
    checks = [
        {"check": check.name, "ok": check.ok, "detail": check.detail, "mend": "" if check.ok else check.remedy}
        for check in found
    ]
    columns = [
        Column.of("check"),
        Column("RESULT", lambda check: "ok" if check["ok"] else "failed"),
        Column.of("detail"),
        Column.of("mend", "TO MEND IT"),
    ]
    session.printer.print_records({"checks": checks}, checks, columns, empty="Nothing to check.")
    failed = [str(check["check"]) for check in checks if not check["ok"]]
    if failed:
        raise CommandError(
            ExitCode.SERVER_ERROR,
            f"not as it should be: {', '.join(failed)}.",
            next_step="do what the last column says.",
        )


@click.command(cls=Command)
@click.argument("model", required=False)
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they are written.")
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Lines to begin with.",
)
def logs(model: str | None, follow: bool, lines: int) -> None:
    """Show the platform's log, or that of one MODEL's engine."""
    with _daemon() as daemon:
        daemon.logs(model, follow=follow, lines=lines)


@contextmanager
def _daemon() -> Iterator[ModuleType]:
    """Yields the daemon module; raises CommandError for its errors."""
    daemon = _import_standalone("daemon")
    next_step = "`llma doctor` checks each part of the platform and says how to mend it."
    try:
        yield daemon
    except daemon.StartFailed as error:
        raise CommandError(ExitCode.SERVER_ERROR, str(error), next_step=next_step) from error
    except ValueError as error:  # a setting in the environment
        raise CommandError(ExitCode.USAGE, str(error), next_step="correct or unset the variable.") from error
    except OSError as error:  # a full disk, an unreachable network, a port in use
        raise CommandError(ExitCode.SERVER_ERROR, str(error), next_step=next_step) from error


def _import_standalone(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"llmariner.standalone.{module}")
    except ModuleNotFoundError as error:
        raise CommandError(
            ExitCode.USAGE,
            f"this installation cannot run a platform: the module {error.name} is missing.",
            next_step="install it with `pip install 'llmariner-knative[local]'`.",
        ) from error
