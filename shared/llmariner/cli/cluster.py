"""`llma cluster`: an operator's look at a Kubernetes cluster, by the rights of a kubeconfig instead of an API key.

Thin: the looking is `llmariner.diagnostics`, which is imported only when one of these runs, and with it Kubernetes'
client, which an installation made for talking to somebody else's platform does not need to have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.session import Session
from llmariner.cli.support.terminal import write

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmariner.cli.support.output import Column, Printer
    from llmariner.platform.kube import Cluster

__all__ = ["cluster"]

_Any = TypeVar("_Any", bound=Callable[..., Any])

# As those of `diff`: 1 is an answer, 2 is none.
_LACKING, _UNASKED = ExitCode.REFUSED, ExitCode.USAGE
_CODES = """\b
Exit codes:
    0  all is well
    1  something is missing, mis-set, or hidden from these rights
    2  the cluster can't be asked"""


@click.group(cls=Group)
def cluster() -> None:
    """A Kubernetes cluster, seen by its operator.

    It is asked with the rights of a kubeconfig: --kubeconfig, else KUBECONFIG, else ~/.kube/config.
    """


def _placed(command: _Any) -> _Any:
    """The options that say which cluster, and where in it."""
    for option in (
        click.option("-n", "--namespace", metavar="NAME", help="Where the platform is installed. Default: llmariner."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: its current one."),
        click.option("--kubeconfig", metavar="FILE", help="Default: KUBECONFIG, else ~/.kube/config."),
    ):
        command = option(command)
    return command


@cluster.command(epilog=_CODES)
@click.option("--prerequisites", is_flag=True, help="Only what a cluster must bring before an installation.")
@_placed
@pass_session
def check(
    session: Session, kubeconfig: str | None, context: str | None, namespace: str | None, prerequisites: bool
) -> None:
    """Check what the cluster lacks, and say how to mend it."""
    with _asked(kubeconfig, context, namespace) as (api, place):
        from llmariner.cli.support.output import Column
        from llmariner.diagnostics.checks import checks

        findings = checks(api, place, prerequisites=prerequisites)
    columns = [Column.of("check"), Column.of("result"), Column.of("detail")]
    records = [each.shown() for each in findings]
    session.printer.records({"checks": records}, records, columns, empty="Nothing to check.")
    if session.printer.for_people:
        _mends(records)
    wrong = list(dict.fromkeys(each.check for each in findings if not each.well))
    if wrong:
        raise CommandError(
            _LACKING, f"not as it should be: {', '.join(wrong)}.", next_step="mend them from the top; then check again."
        )


def _mends(records: Sequence[dict[str, str]]) -> None:
    """A line each, below the table: a command in a column would be broken where the column ends."""
    for title, results in (("To mend", ("failed", "unknown")), ("If wanted", ("optional",))):
        checks: dict[str, list[str]] = {}
        for each in records:
            if each["result"] in results:
                checks.setdefault(each["mend"], []).append(each["check"])
        lines = [f"  {', '.join(dict.fromkeys(names))}: {mend}" for mend, names in checks.items()]
        if lines:
            write(f"\n{title}:\n" + "\n".join(lines))


@cluster.command(epilog=_CODES)
@click.option("--watch", is_flag=True, help="Keep the tables up to date until ctrl-C.")
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(min=0.5), default=3.0, show_default=True,
    help="Seconds between updates.",
)  # fmt: skip
@_placed
@pass_session
def status(
    session: Session, kubeconfig: str | None, context: str | None, namespace: str | None, watch: bool, interval: float
) -> None:
    """Show functions, models, queues, events and nodes."""
    with _asked(kubeconfig, context, namespace) as (api, place):
        from llmariner.diagnostics.status import status as look

        printer = session.printer
        if watch and printer.for_people:
            _watch(printer, lambda: look(api, place), interval)
        document = look(api, place)
        if printer.for_people:
            printer.console().print(_view(printer, document))
        else:
            printer.message(document, "")


def _watch(printer: Printer, look: Callable[[], dict[str, Any]], interval: float) -> None:
    """Redraw until interrupted. A server that goes away does not end it; one that never answered does."""
    from rich.console import Group as Lines
    from rich.live import Live
    from rich.text import Text

    from llmariner.errors import Unavailable

    shown = _view(printer, look())
    with Live(shown, console=printer.console(), auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            time.sleep(interval)
            footer = Text(f"{time.strftime('%H:%M:%S')}  ctrl-C ends", style="dim")
            try:
                shown = _view(printer, look())
            except Unavailable as error:
                footer = Text(f"{error} Still trying.", style="red")
            live.update(Lines(shown, Text(), footer), refresh=True)


def _view(printer: Printer, document: dict[str, Any]) -> RenderableType:
    """A titled table each; a part with nothing in it is a line."""
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = []
    for title, columns in _columns().items():
        records = document[title]
        lack = document["unreadable"].get(title, "none")
        parts += [Text(title.upper(), style="bold"), printer.table(records, columns) if records else Text(lack), Text()]
    return Lines(*parts[:-1])


def _columns() -> dict[str, list[Column]]:
    from llmariner.cli.support.output import Column, byte_size

    memory = Column("MEMORY", lambda node: byte_size(node.get("memory_bytes") or None), right=True)
    of = Column.of
    return {
        "functions": [of("name"), of("state"), of("replicas"), of("revision"), of("min"), of("max"), of("message")],
        "models": [of("id", "MODEL"), of("phase"), of("replicas"), of("name"), of("message")],
        "queues": [of("name"), of("cluster_queue"), of("pending"), of("admitted"), of("message")],
        "waiting": [of("workload"), of("queue"), of("since"), of("message")],
        "events": [of("kind"), of("name"), of("state"), of("message")],
        "nodes": [of("name"), of("state"), of("cpu"), memory, of("accelerators"), of("message")],
    }


@contextmanager
def _asked(kubeconfig: str | None, context: str | None, namespace: str | None) -> Iterator[tuple[Cluster, str]]:
    """The API server and the namespace; what keeps it from answering is told as a failure of the command."""
    try:
        from llmariner.diagnostics.cluster_access import Unasked, opened
        from llmariner.settings import environment

        reached = opened(environment(), kubeconfig=kubeconfig, context=context, namespace=namespace)
        with reached as (api, place):
            yield api, place
    except ModuleNotFoundError as error:
        raise CommandError(
            _UNASKED,
            f"this installation cannot ask a cluster: the module {error.name} is missing.",
            next_step="install it with `pip install 'llmariner-knative[cli,cluster]'`.",
        ) from error
    except Unasked as error:
        raise CommandError(_UNASKED, str(error), next_step=error.next_step) from error
