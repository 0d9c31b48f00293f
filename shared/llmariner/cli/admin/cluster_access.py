"""`llma admin clusters permissions`: the rights of projects for kubectl through the platform."""

from __future__ import annotations

import re

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.session import Session

__all__ = ["permissions"]


@click.command(cls=Command)
@click.argument("assignments", metavar="PROJECT_ID=NAMESPACE...", nargs=-1, required=True)
@click.option("--agent-namespace", default="llmariner-agent", show_default=True, help="Where the agent runs.")
@pass_session
def permissions(session: Session, assignments: tuple[str, ...], agent_namespace: str) -> None:
    """Print the Roles of projects on a cluster.

    By them projects reach their namespaces there; apply them with `kubectl apply -f -`.

    \b
      llma admin clusters permissions proj_123=team-a proj_123=team-b proj_456=team-c | kubectl apply -f -

    Give all projects of the cluster at once: the agent may pass on requests of these, and of no others.
    """
    import yaml

    from llmariner.sessions.cluster_roles import session_objects

    projects: dict[str, frozenset[str]] = {}
    for each in assignments:
        project, _, namespace = each.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", project) or not re.fullmatch(
            r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", namespace
        ):
            raise click.BadParameter(f"'{each}' is not PROJECT_ID=NAMESPACE.", param_hint="PROJECT_ID=NAMESPACE")
        projects[project] = projects.get(project, frozenset()) | {namespace}
    objects = session_objects((agent_namespace, "llmariner-agent"), projects)
    session.printer.print_message({"items": objects}, yaml.safe_dump_all(objects, sort_keys=False).rstrip())
