"""`llma admin clusters kubeconfig` and `permissions`: plain kubectl through the platform, and the rights for it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import click

from llmariner.cli.support.click_extensions import Command, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.resolvers import complete_clusters, resolve_cluster
from llmariner.cli.support.session import Session

__all__ = ["kubeconfig", "permissions"]

_CLUSTER_ID = re.compile(r"cluster[-_][A-Za-z0-9_-]+")


@click.command(cls=Command)
@click.argument("name", metavar="NAME_OR_ID", shell_complete=complete_clusters)
@click.option(
    "--namespace", "-n", metavar="NAMESPACE", help="The namespace of your project that kubectl uses by default."
)
@click.option(
    "--certificate-authority",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificates of the platform's authority, if it is not a public one.",
)
@pass_session
def kubeconfig(session: Session, name: str, namespace: str | None, certificate_authority: Path | None) -> None:
    """Print a kubeconfig for kubectl on a cluster.

    Its requests go through the platform, with your rights.

    \b
      llma admin clusters kubeconfig gpu-west -n team > gpu-west.yaml
      kubectl --kubeconfig gpu-west.yaml logs -f deployment/trainer

    It holds no key: kubectl asks `llma auth token` for it. Members of a project may give a cluster by its id alone.
    """
    import yaml

    target = session.authenticated_target()
    if not target.endpoint.startswith("https:"):
        raise CommandError(
            ExitCode.USAGE,
            f"kubectl sends its credential over https only, and the endpoint is {target.endpoint}.",
            next_step="give the platform's https address: `llma --endpoint https://… admin clusters kubeconfig`.",
        )
    id_ = name if _CLUSTER_ID.fullmatch(name) else resolve_cluster(session.api(), name)["id"]
    arguments = ["auth", "token", "--exec-credential"]
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "llma",
        "args": arguments,
        "env": [{"name": "LLMARINER_BASE_URL", "value": target.endpoint}],
        "interactiveMode": "Never",
        "installHint": "Install llma, and sign in with `llma auth login`.",
    }
    cluster = {"server": f"{target.endpoint.rstrip('/')}/sessions/{id_}"}
    if certificate_authority is not None:
        cluster["certificate-authority-data"] = base64.b64encode(certificate_authority.read_bytes()).decode()
    context = {"cluster": name, "user": "llma", **({"namespace": namespace} if namespace else {})}
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": "llma", "user": {"exec": program}}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    session.printer.print_message(document, yaml.safe_dump(document, sort_keys=False).rstrip())


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
