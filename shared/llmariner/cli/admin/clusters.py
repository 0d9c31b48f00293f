"""`llma admin clusters`: register, join, list, drain and unregister clusters, and share their GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmariner.cli.admin.cluster_access import permissions
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.resolvers import complete_clusters, resolve_cluster
from llmariner.cli.support.session import Session

if TYPE_CHECKING:
    from llmariner.cli.support.api import ApiClient

__all__ = ["clusters"]

NAME = click.argument("name", metavar="NAME_OR_ID", shell_complete=complete_clusters)
_OVERLAP = click.option(
    "--overlap",
    metavar="SECONDS",
    type=click.IntRange(0),
    default=3600,
    show_default=True,
    help="How long the old key works.",
)
_MAX_CERTIFICATES_BYTES = 1024 * 1024


@click.group(cls=Group)
def clusters() -> None:
    """Clusters on which work runs, and their agents."""


clusters.add_command(permissions)


@clusters.command("list")
@pass_session
def list_clusters(session: Session) -> None:
    """List clusters, with their GPUs and health."""
    from llmariner.cli.support.output import Column

    document = session.api().all_pages("clusters", limit=100)
    columns = [
        Column.of("id"),
        Column.of("name"),
        Column("STATUS", _status),
        Column("NODES", lambda each: _of(each, "node_count"), True),
        Column("GPUS", lambda each: _of(each, "gpu_capacity"), True),
        Column("ALLOCATED", lambda each: _of(each, "gpu_allocated"), True),
        Column("COMPONENTS", _health),
        Column("AGENT", lambda each: (each.get("agent") or {}).get("version")),
    ]
    session.printer.print_records(document, document["data"], columns, empty="There is no cluster.")


@clusters.command("get")
@NAME
@pass_session
def get_cluster(session: Session, name: str) -> None:
    """Show one cluster."""
    _show(session, session.api(), name)


@clusters.command()
@NAME
@pass_session
def status(session: Session, name: str) -> None:
    """Show the health of a cluster, and its GPUs."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import Column, format_timestamp

    api = session.api()
    one = api.get(build_path("clusters", resolve_cluster(api, name)["id"]))
    printer = session.printer
    if not printer.is_table:
        printer.print_message(one, "")
        return
    seen = format_timestamp((one.get("agent") or {}).get("last_heartbeat_at")) or "never"
    printer.print_message(one, f"{one['name']} is {_status(one)}; its agent reported last: {seen}.")
    rows = [{"name": key, **each} for key, each in one["component_statuses"].items()]
    health = [
        Column("COMPONENT", lambda row: row["name"]),
        Column("HEALTH", lambda row: "ok" if row["is_healthy"] else "failed"),
        Column("VERSION", lambda row: row.get("version")),
        Column("MESSAGE", lambda row: row["message"]),
    ]
    printer.print_records(one, rows, health, empty="No component was reported.")
    gpus = [
        Column("GPU", lambda row: row["product"] or "none"),
        Column("NODES", lambda row: row["nodes"], True),
        Column("READY", lambda row: row["ready_nodes"], True),
        Column("GPUS", lambda row: row["gpus"], True),
        Column("ALLOCATED", lambda row: row["allocated_gpus"], True),
        Column("PODS", lambda row: row["pods"], True),
    ]
    products = (one.get("inventory") or {}).get("products") or []
    printer.print_records(one, products, gpus, empty="No inventory was reported.")


@clusters.command()
@click.argument("name")
@pass_session
def register(session: Session, name: str) -> None:
    """Register a cluster, and print its key.

    `llma admin clusters join` does that too, and prints what its agent is made of.
    """
    made = session.api().post("clusters", {"name": name})
    session.printer.print_message(
        made,
        f"Registered {made['name']} ({made['id']}). Its registration key, shown only now:\n{made['registration_key']}",
    )


@clusters.command()
@click.argument("name")
@click.option(
    "--rotate", is_flag=True, help="NAME is registered already: give it a new key. The old one works for an hour."
)
@click.option("--control-plane", metavar="URL", help="The control plane, as the cluster reaches it (this endpoint).")
@click.option("--namespace", metavar="NAMESPACE", default="llmariner-agent", show_default=True, help="Of the agent.")
@click.option("--image", metavar="IMAGE", help="Of the agent, where another registry has it.")
@click.option(
    "--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM of private authorities."
)
@click.option("--proxy", metavar="URL", default="", help="HTTPS proxy on the way to the control plane.")
@click.option(
    "--gpu-operator-namespace", metavar="NAMESPACE", default="", help="Lets the agent configure shared GPUs there."
)
@click.option("--plain-http", is_flag=True, help="Allow an http:// URL, in a network that encrypts by itself.")
@click.option("--sessions-only", is_flag=True, help="Let people in, and no work of the platform.")
@pass_session
def join(
    session: Session,
    name: str,
    rotate: bool,
    control_plane: str | None,
    namespace: str,
    image: str | None,
    ca_file: Path | None,
    proxy: str,
    gpu_operator_namespace: str,
    plain_http: bool,
    sessions_only: bool,
) -> None:
    """Register a cluster, and print its agent's manifest.

    \b
    llma admin clusters join gpu-west | kubectl --context gpu-west apply -f -

    It makes namespaces for jobs and models, in which the platform may run them. With --sessions-only it makes none.
    """
    import yaml

    from llmariner.agent.manifest import AGENT_IMAGE, AGENT_NAME, AgentManifest
    from llmariner.agent_settings import AgentSettings
    from llmariner.cli.support.terminal import write_stderr, write_stdout
    from llmariner.manifests.installation import engine_plugins
    from llmariner.sessions.control_plane_roles import control_plane_objects

    url = control_plane or session.target().endpoint
    try:
        settings = AgentSettings.load(
            {
                "LLMARINER_AGENT_CONTROL_PLANE": url,
                "LLMARINER_AGENT_GPU_NAMESPACE": gpu_operator_namespace,
                "LLMARINER_AGENT_PLAIN_HTTP": "1" if plain_http else "",
            }
        )
        certificates = "" if ca_file is None else _certificates(ca_file)
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{str(error).replace('LLMARINER_AGENT_PLAIN_HTTP=1', '--plain-http')}") from error
    made = _registered(session.api(), name, rotate=rotate)
    manifest = AgentManifest(
        control_plane=settings.control_plane,
        registration_key=made["registration_key"],
        namespace=namespace,
        image=image or AGENT_IMAGE,
        certificates=certificates,
        proxy=proxy,
        gpu_namespace=gpu_operator_namespace,
        plain_http=plain_http,
    )
    account = (namespace, AGENT_NAME)
    work = [] if sessions_only else [*control_plane_objects(account, certificates=certificates), engine_plugins()]
    write_stdout(yaml.safe_dump_all([*manifest.objects(), *work], sort_keys=False), end="")
    write_stderr(
        f"Registered {made['name']} ({made['id']}). The manifest holds its registration key: pipe it to "
        f"`kubectl apply -f -`, then see `llma admin clusters status {made['id']}`."
    )


@clusters.command()
@NAME
@click.option("--drain", is_flag=True, help="Unregister it once no work runs there, and place none until then.")
@pass_session
def unregister(session: Session, name: str, drain: bool) -> None:
    """Unregister a cluster: its agent is out within seconds."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    one = resolve_cluster(api, name)
    answer = api.delete(build_path("clusters", one["id"]), drain="true" if drain else None)
    text = (
        f"Unregistered {one['name']}."
        if answer["deleted"]
        else f"{one['name']} is unregistered once no work runs there."
    )
    session.printer.print_message(answer, text)


@clusters.command()
@NAME
@click.option("--undo", is_flag=True, help="Place work there again.")
@pass_session
def drain(session: Session, name: str, undo: bool) -> None:
    """Place no new work on a cluster; what runs there is not ended."""
    verb = "undrain" if undo else "drain"
    answer = _act(session, name, verb)
    text = f"Work is placed on {answer['name']} again." if undo else f"No new work is placed on {answer['name']}."
    session.printer.print_message(answer, text)


@clusters.command("rotate-key")
@NAME
@_OVERLAP
@pass_session
def rotate_key(session: Session, name: str, overlap: int) -> None:
    """Make a new registration key, and print it.

    Replace the Secret llmariner-agent in the cluster within the overlap: the agent reads it again by itself.
    """
    answer = _act(session, name, "rotateKey", {"overlap_seconds": overlap})
    text = f"The old key of {answer['name']} works for {overlap} s more. The new one, shown only now:"
    session.printer.print_message(answer, f"{text}\n{answer['registration_key']}")


@clusters.command("revoke-key")
@NAME
@pass_session
def revoke_key(session: Session, name: str) -> None:
    """Revoke the keys of a cluster.

    Its agent is out within seconds.
    """
    answer = _act(session, name, "revokeKey")
    session.printer.print_message(answer, f"{answer['name']} has no valid registration key any more.")


@clusters.group(cls=Group)
def config() -> None:
    """How the GPUs of a cluster are shared."""


@config.command("create")
@NAME
@click.option(
    "--time-slicing-gpus", metavar="N", type=click.IntRange(2, 64), help="Each GPU counts as N, which take turns."
)
@click.option("--mps-gpus", metavar="N", type=click.IntRange(2, 64), help="Each GPU counts as N clients of MPS.")
@click.option("--mig-strategy", type=click.Choice(["single", "mixed"]), help="How partitions of GPUs are shown.")
@click.option("--update", is_flag=True, help="The cluster is configured already: change what is named.")
@pass_session
def create_config(
    session: Session,
    name: str,
    time_slicing_gpus: int | None,
    mps_gpus: int | None,
    mig_strategy: str | None,
    update: bool,
) -> None:
    """Share the GPUs of a cluster. Its agent applies it."""
    from llmariner.cli.support.api import build_path

    plugin: dict[str, Any] = {}
    plugin |= {} if time_slicing_gpus is None else {"time_slicing": {"gpus": time_slicing_gpus}}
    plugin |= {} if mps_gpus is None else {"mps": {"gpus": mps_gpus}}
    plugin |= {} if mig_strategy is None else {"mig": {"strategy": mig_strategy}}
    if not plugin:
        raise click.UsageError("Say how: --time-slicing-gpus, --mps-gpus or --mig-strategy.")
    api = session.api()
    path, body = build_path("clusters", resolve_cluster(api, name)["id"], "config"), {"device_plugin_config": plugin}
    answer = api.patch(path, body) if update else api.post(path, body)
    text = f"Stored; the agent of the cluster applies it. `llma admin clusters config get {name}` shows the result."
    session.printer.print_message(answer, text)


@config.command("get")
@NAME
@pass_session
def get_config(session: Session, name: str) -> None:
    """Show how GPUs are shared, and if it is applied."""
    from llmariner.cli.support.api import build_path
    from llmariner.cli.support.output import format_timestamp

    api = session.api()
    answer = api.get(build_path("clusters", resolve_cluster(api, name)["id"], "config"))
    plugin = answer["device_plugin_config"]
    fields = {
        "time slicing": (plugin.get("time_slicing") or {}).get("gpus"),
        "MPS clients": (plugin.get("mps") or {}).get("gpus"),
        "MIG strategy": (plugin.get("mig") or {}).get("strategy"),
        "status": answer["status"],
        "message": answer["message"],
        "changed": format_timestamp(answer["updated_at"]),
    }
    session.printer.print_details(answer, fields)


@config.command("delete")
@NAME
@pass_session
def delete_config(session: Session, name: str) -> None:
    """Share the GPUs of a cluster no more."""
    from llmariner.cli.support.api import build_path

    api = session.api()
    answer = api.delete(build_path("clusters", resolve_cluster(api, name)["id"], "config"))
    session.printer.print_message(answer, f"The GPUs of {name} are not shared any more, once its agent has applied it.")


def _show(session: Session, api: ApiClient, name: str) -> None:
    from llmariner.cli.support.output import format_bytes, format_timestamp

    one = resolve_cluster(api, name)
    agent, key, summary = one.get("agent") or {}, one.get("key") or {}, one.get("summary") or {}
    fields = {
        "id": one["id"],
        "name": one["name"],
        "status": _status(one),
        "components": _health(one),
        "nodes": summary.get("node_count"),
        "GPUs": f"{summary['gpu_allocated']} of {summary['gpu_capacity']} allocated" if summary else None,
        "cores": f"{summary['cpu_allocated']:g} of {summary['cpu']:g} allocated" if summary else None,
        "memory": format_bytes(summary.get("memory_bytes")),
        "Kubernetes": agent.get("kubernetes_version"),
        "agent": agent.get("version"),
        "last heartbeat": format_timestamp(agent.get("last_heartbeat_at")),
        "registration key": key.get("prefix"),
        "created": format_timestamp(one["created_at"]),
    }
    session.printer.print_details(one, fields)


def _act(session: Session, name: str, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    from llmariner.cli.support.api import build_path

    api = session.api()
    return api.post(f"{build_path('clusters', resolve_cluster(api, name)['id'])}:{verb}", body)


def _registered(api: ApiClient, name: str, *, rotate: bool) -> dict[str, Any]:
    from llmariner.cli.support.api import build_path

    if not rotate:
        return api.post("clusters", {"name": name})
    return api.post(f"{build_path('clusters', resolve_cluster(api, name)['id'])}:rotateKey", {})


def _certificates(file: Path) -> str:
    import ssl

    if file.stat().st_size > _MAX_CERTIFICATES_BYTES:
        raise ValueError(f"{file} is too large for a file of certificates.")
    text = file.read_text()
    ssl.create_default_context(cadata=text)
    return text


def _status(one: Any) -> str:
    return (
        f"{one['status']}, {'deleting' if one.get('deleting') else 'draining'}"
        if one.get("draining")
        else one["status"]
    )


def _of(one: Any, field: str) -> int | None:
    found: int | None = (one.get("summary") or {}).get(field)
    return found


def _health(one: Any) -> str | None:
    statuses = one.get("component_statuses") or {}
    if not statuses:
        return None
    broken = [name for name, each in statuses.items() if not each["is_healthy"]]
    return f"failed, {', '.join(broken)}" if broken else "ok"
