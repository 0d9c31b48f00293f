"""`llma cluster`: diagnostics of a Kubernetes cluster, with the permissions of a kubeconfig instead of an API key.

The checks are `llmariner.diagnostics`. It is imported only when a command runs, because it needs the Kubernetes client,
which an installation of the command line alone does not have.
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
from llmariner.cli.support.terminal import write_stdout

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmariner.cli.support.output import Column, Printer
    from llmariner.platform.kube import Cluster

__all__ = ["cluster"]

_CommandFunction = TypeVar("_CommandFunction", bound=Callable[..., Any])

# As for `diff`: 1 is a result, 2 means that the checks could not run.
_PROBLEMS_FOUND, _CLUSTER_UNREACHABLE = ExitCode.REJECTED, ExitCode.USAGE
_EXIT_CODES = """\b
Exit codes:
    0  all is well
    1  something is missing, mis-set, or hidden from these rights
    2  the cluster can't be asked"""


@click.group(cls=Group)
def cluster() -> None:
    """Diagnose a platform on a Kubernetes cluster.

    The permissions are those of a kubeconfig: --kubeconfig, else KUBECONFIG, else ~/.kube/config.
    """


def _cluster_options(command: _CommandFunction) -> _CommandFunction:
    """Add the options that select the cluster and the namespace."""
    for option in (
        click.option("-n", "--namespace", metavar="NAME", help="Where the platform is installed. Default: llmariner."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig. Default: its current one."),
        click.option("--kubeconfig", metavar="FILE", help="Default: KUBECONFIG, else ~/.kube/config."),
    ):
        command = option(command)
    return command


@cluster.command(epilog=_EXIT_CODES)
@click.option("--prerequisites", is_flag=True, help="Only the prerequisites of an installation.")
@_cluster_options
@pass_session
def check(
    session: Session, kubeconfig: str | None, context: str | None, namespace: str | None, prerequisites: bool
) -> None:
    """Check the cluster, and show how to fix problems."""
    with _open_cluster(kubeconfig, context, namespace) as (api, target_namespace):
        from llmariner.cli.support.output import Column
        from llmariner.diagnostics.checks import checks

        results = checks(api, target_namespace, prerequisites=prerequisites)
    columns = [Column.of("check"), Column.of("result"), Column.of("detail")]
    records = [each.to_json() for each in results]
    session.printer.print_records({"checks": records}, records, columns, empty="Nothing to check.")
    if session.printer.is_table:
        _print_remedies(records)
    unhealthy = list(dict.fromkeys(each.check for each in results if not each.is_healthy))
    if unhealthy:
        raise CommandError(
            _PROBLEMS_FOUND,
            f"not as it should be: {', '.join(unhealthy)}.",
            next_step="mend them from the top; then check again.",
        )


def _print_remedies(records: Sequence[dict[str, str]]) -> None:
    """Print a line per remedy below the table: a table column would wrap the commands."""
    for title, results in (("To mend", ("failed", "unknown")), ("If wanted", ("optional",))):
        checks: dict[str, list[str]] = {}
        for each in records:
            if each["result"] in results:
                checks.setdefault(each["mend"], []).append(each["check"])
        lines = [f"  {', '.join(dict.fromkeys(names))}: {mend}" for mend, names in checks.items()]
        if lines:
            write_stdout(f"\n{title}:\n" + "\n".join(lines))


@cluster.command(epilog=_EXIT_CODES)
@click.option("--watch", is_flag=True, help="Keep the tables up to date until ctrl-C.")
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(min=0.5), default=3.0, show_default=True,
    help="Seconds between updates.",
)  # fmt: skip
@_cluster_options
@pass_session
def status(
    session: Session, kubeconfig: str | None, context: str | None, namespace: str | None, watch: bool, interval: float
) -> None:
    """Show functions, models, queues, events and nodes."""
    with _open_cluster(kubeconfig, context, namespace) as (api, target_namespace):
        from llmariner.diagnostics.status import status as collect

        printer = session.printer
        if watch and printer.is_table:
            _watch(printer, lambda: collect(api, target_namespace), interval)
        document = collect(api, target_namespace)
        if printer.is_table:
            printer.console().print(_view(printer, document))
        else:
            printer.print_message(document, "")


def _watch(printer: Printer, collect: Callable[[], dict[str, Any]], interval: float) -> None:
    """Redraw until interrupted. A server that stops answering does not end the loop; a failure of the first read does."""
    from rich.console import Group as Lines
    from rich.live import Live
    from rich.text import Text

    from llmariner.errors import Unavailable

    shown = _view(printer, collect())
    with Live(shown, console=printer.console(), auto_refresh=False, vertical_overflow="visible") as live:
        while True:
            time.sleep(interval)
            footer = Text(f"{time.strftime('%H:%M:%S')}  ctrl-C ends", style="dim")
            try:
                shown = _view(printer, collect())
            except Unavailable as error:
                footer = Text(f"{error} Still trying.", style="red")
            live.update(Lines(shown, Text(), footer), refresh=True)


def _view(printer: Printer, document: dict[str, Any]) -> RenderableType:
    """A titled table per section; an empty section is one line."""
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = []
    for title, columns in _columns().items():
        records = document[title]
        placeholder = document["unreadable"].get(title, "none")
        parts += [
            Text(title.upper(), style="bold"),
            printer.table(records, columns) if records else Text(placeholder),
            Text(),
        ]
    return Lines(*parts[:-1])


def _columns() -> dict[str, list[Column]]:
    from llmariner.cli.support.output import Column, format_bytes

    memory = Column("MEMORY", lambda node: format_bytes(node.get("memory_bytes") or None), right=True)
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
def _open_cluster(kubeconfig: str | None, context: str | None, namespace: str | None) -> Iterator[tuple[Cluster, str]]:
    """Yields the cluster and the installation's namespace. Raises CommandError where the cluster cannot be read."""
    try:
        from llmariner.diagnostics.cluster_access import ClusterAccessError, open_cluster
        from llmariner.settings import environment

        connection = open_cluster(environment(), kubeconfig=kubeconfig, context=context, namespace=namespace)
        with connection as (api, target_namespace):
            yield api, target_namespace
    except ModuleNotFoundError as error:
        raise CommandError(
            _CLUSTER_UNREACHABLE,
            f"this installation cannot ask a cluster: the module {error.name} is missing.",
            next_step="install it with `pip install 'llmariner-knative[cli,cluster]'`.",
        ) from error
    except ClusterAccessError as error:
        raise CommandError(_CLUSTER_UNREACHABLE, str(error), next_step=error.next_step) from error
