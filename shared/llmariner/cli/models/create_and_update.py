"""`llma models create` and `llma models update`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from llmariner.cli.support.click_extensions import Command, Group, pass_session
from llmariner.cli.support.session import Session

__all__ = ["SOURCES", "create", "create_base", "update"]

SOURCES = click.Choice(["hugging-face", "object-store", "ollama", "local"], case_sensitive=False)


def _serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a new model's configuration, and the session."""
    for option in (
        pass_session,
        click.option(
            "--disable-on-demand-allocation", is_flag=True, help="Serve only while active: no request wakes it."
        ),
        click.option(
            "--allowed-cluster-id",
            "clusters",
            metavar="ID",
            multiple=True,
            help="Cluster it may run on; repeat for more.",
        ),
        click.option("--replicas", metavar="N", type=click.IntRange(min=1), help="Replicas."),
        click.option("--gpu", metavar="N", type=click.IntRange(min=0), help="GPUs of a replica."),
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def create() -> None:
    """Register a model."""


@create.command("base")
@click.argument("model", metavar="ID")
@click.option("--source-repository", type=SOURCES, required=True, help="Source of the weights.")
@click.option("--model-file-location", help="Path or URL of the weights, if the id does not imply it.")
@click.option("--credential", metavar="NAME", help="The project's credential to fetch it with.")
@click.option("--global-scoped", is_flag=True, help="For all projects, which administrators may do; the default.")
@click.option("--project-scoped", is_flag=True, help="For the project of the context only.")
@_serving_options
def create_base(
    session: Session,
    model: str,
    source_repository: str,
    model_file_location: str | None,
    credential: str | None,
    global_scoped: bool,
    project_scoped: bool,
    **serving: Any,
) -> None:
    """Register base model ID and begin to load it."""
    if global_scoped and project_scoped:
        raise click.UsageError("--global-scoped and --project-scoped exclude each other.")
    body = base_model(model, source_repository, model_file_location, credential)
    if project_scoped:
        body["is_project_scoped"] = True
    _create(session, body | _new_config(**serving))


@create.command("fine-tuned")
@click.option("--base-model-id", required=True, help="The model it was tuned from.")
@click.option("--suffix", required=True, help="Last part of the new model's id, at most 18 characters.")
@click.option("--source-repository", type=SOURCES, required=True, help="Source of the weights.")
@click.option("--model-file-location", required=True, help="Path or URL of the adapter's weights.")
@click.option("--credential", metavar="NAME", help="The project's credential to fetch it with.")
@_serving_options
def create_fine_tuned(
    session: Session,
    base_model_id: str,
    suffix: str,
    source_repository: str,
    model_file_location: str,
    credential: str | None,
    **serving: Any,
) -> None:
    """Register a fine-tuned model and begin to load it."""
    _create(
        session,
        {
            "is_fine_tuned_model": True,
            "base_model_id": base_model_id,
            "suffix": suffix,
            "source_repository": api_name(source_repository),
            "model_file_location": model_file_location,
        }
        | ({"credential": credential} if credential else {})
        | _new_config(**serving),
    )


@click.command(cls=Command)
@click.argument("model", metavar="ID")
@click.option("--gpu", metavar="N", type=click.IntRange(min=0), help="GPUs of a replica.")
@click.option("--replicas", metavar="N", type=click.IntRange(min=1), help="Replicas.")
@click.option(
    "--extra-args",
    metavar="ARG",
    multiple=True,
    help="Engine argument, such as --max-model-len=4096; repeat for several.",
)
@click.option("--clear-extra-args", is_flag=True, help="Remove all engine arguments.")
@click.option(
    "--enable-on-demand-allocation/--disable-on-demand-allocation",
    "on_demand",
    default=None,
    help="Whether a request may wake it.",
)
@click.option(
    "--allowed-cluster-id", "clusters", metavar="ID", multiple=True, help="Cluster it may run on; repeat for several."
)
@click.option("--all-clusters", is_flag=True, help="Let it run on every cluster of its project.")
@click.option(
    "--created",
    metavar="N",
    type=int,
    help="Only the model whose `created` this is; needed to approve one (its `llma models get`).",
)
@pass_session
def update(
    session: Session,
    model: str,
    gpu: int | None,
    replicas: int | None,
    extra_args: tuple[str, ...],
    clear_extra_args: bool,
    on_demand: bool | None,
    clusters: tuple[str, ...],
    all_clusters: bool,
    created: int | None,
) -> None:
    """Change how a model is served.

    Settings that are not given stay unchanged. Changes take effect when the model wakes next.
    """
    from llmariner.cli.support.api import build_path

    if extra_args and clear_extra_args:
        raise click.UsageError("--extra-args and --clear-extra-args exclude each other.")
    if clusters and all_clusters:
        raise click.UsageError("--allowed-cluster-id and --all-clusters exclude each other.")
    arguments = list(extra_args) if extra_args or clear_extra_args else None
    allowed = list(clusters) if clusters or all_clusters else None
    config = _config(gpu=gpu, replicas=replicas, extra_args=arguments, on_demand=on_demand, clusters=allowed)
    if not config:
        raise click.UsageError("Nothing to change: give at least one option.")
    mask = ",".join(_paths(config, "config"))
    body = {"config": config, "update_mask": mask} | ({} if created is None else {"created": created})
    answer = session.api().patch(build_path("models", model), body)
    session.printer.print_message(answer, f"Updated {model}.")


def base_model(model: str, source: str, location: str | None, credential: str | None = None) -> dict[str, Any]:
    """The request body for a base model. A local folder may be relative to the working directory."""
    body: dict[str, Any] = {"id": model, "source_repository": api_name(source)}
    if location and source == "local" and "://" not in location:
        location = os.path.abspath(os.path.expanduser(location))
    if location:
        body["model_file_location"] = location
    if credential:
        body["credential"] = credential
    return body


def api_name(choice: str) -> str:
    """The API's enumeration value of an option such as `hugging-face`."""
    return choice.upper().replace("-", "_")


def _create(session: Session, body: dict[str, Any]) -> None:
    answer = session.api().post("models", body)
    model = answer.get("id")
    session.printer.print_message(answer, f"Registered {model}. `llma models pull {model}` follows its loading.")


def _new_config(
    *, gpu: int | None, replicas: int | None, disable_on_demand_allocation: bool, clusters: tuple[str, ...]
) -> dict[str, Any]:
    """The part of a request with the configuration of a new model; empty where no option is given."""
    on_demand = False if disable_on_demand_allocation else None
    config = _config(gpu=gpu, replicas=replicas, on_demand=on_demand, clusters=list(clusters) or None)
    return {"config": config} if config else {}


def _config(
    *,
    gpu: int | None = None,
    replicas: int | None = None,
    extra_args: list[str] | None = None,
    on_demand: bool | None = None,
    clusters: list[str] | None = None,
) -> dict[str, Any]:
    """The model config with only the given values, since the update mask is derived from it."""
    runtime: dict[str, Any] = {}
    if gpu is not None:
        runtime["resources"] = {"gpu": gpu}
    if replicas is not None:
        runtime["replicas"] = replicas
    if extra_args is not None:
        runtime["extra_args"] = extra_args
    config: dict[str, Any] = {"runtime_config": runtime} if runtime else {}
    policy: dict[str, Any] = {} if on_demand is None else {"enable_on_demand_allocation": on_demand}
    if clusters is not None:
        policy["allowed_cluster_ids"] = clusters
    if policy:
        config["cluster_allocation_policy"] = policy
    return config


def _paths(value: dict[str, Any], prefix: str) -> list[str]:
    """Dotted paths of the leaves, with the prefix `config.` that upstream's server requires."""
    paths: list[str] = []
    for name, child in value.items():
        path = f"{prefix}.{name}"
        paths += _paths(child, path) if isinstance(child, dict) else [path]
    return paths
