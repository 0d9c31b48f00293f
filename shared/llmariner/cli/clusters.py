"""`llma clusters`: the clusters on which a project's jobs may run, and plain kubectl on them through the platform."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import click

from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.resolvers import complete_project_clusters, resolve_project_cluster
from llmariner.cli.support.session import Session

__all__ = ["clusters"]

_CLUSTER_ID = re.compile(r"cluster-(local|[0-9a-z]{22})")
"""No name has this form, so an id needs no request. Other words, such as `cluster-west`, may be names."""


@click.group(cls=Group)
def clusters() -> None:
    """Clusters of your project, and kubectl on them."""


@clusters.command("list")
@pass_session
def list_clusters(session: Session) -> None:
    """List the clusters on which your project's jobs may run."""
    from llmariner.cli.support.output import Column

    document = session.api().all_pages("jobs/clusters", limit=100)
    found = document.pop("data")
    document["clusters"] = found
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column("GPUS", lambda each: (each.get("summary") or {}).get("gpu_capacity"), True),
        Column("ALLOCATED", lambda each: (each.get("summary") or {}).get("gpu_allocated"), True),
    ]
    session.printer.print_records(document, found, columns, empty="Your project has no cluster.")


@clusters.command()
@click.argument("name", metavar="NAME_OR_ID", shell_complete=complete_project_clusters)
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
      llma clusters kubeconfig gpu-west -n team > gpu-west.yaml
      kubectl --kubeconfig gpu-west.yaml logs -f deployment/trainer

    It holds no key: kubectl asks `llma auth token` for it. `llma clusters list` shows the clusters.
    """
    import yaml

    target = session.authenticated_target()
    if not target.endpoint.startswith("https:"):
        raise CommandError(
            ExitCode.USAGE,
            f"kubectl sends its credential over https only, and the endpoint is {target.endpoint}.",
            next_step="give the platform's https address: `llma --endpoint https://… clusters kubeconfig`.",
        )
    id_ = name if _CLUSTER_ID.fullmatch(name) else resolve_project_cluster(session.api(), name)["id"]
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
