"""`llma models`: list, get, delete, activate and deactivate.

Creating and updating are in `create_and_update.py`, pulling in `pull.py`, aliases in `aliases.py`, and
credentials in `credentials.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from llmariner.cli.models.aliases import aliases
from llmariner.cli.models.create_and_update import create, update
from llmariner.cli.models.credentials import credentials
from llmariner.cli.models.pull import pull
from llmariner.cli.support.click_extensions import Group, pass_session
from llmariner.cli.support.enumerations import enum_value
from llmariner.cli.support.session import Session

__all__ = ["models"]


@click.group(cls=Group)
def models() -> None:
    """List, add, change, start and stop models."""


@models.command("list")
@pass_session
def list_models(session: Session) -> None:
    """List models, those still loading included."""
    from llmariner.cli.support.output import Column, format_timestamp

    document = session.api().all_pages("models", include_loading_models="true")
    columns = [
        Column.of("id"),
        Column("PHASE", _phase),
        Column("STATUS", lambda model: _display_name(model.get("activation_status"))),
        Column("LOADING", lambda model: _display_name(model.get("loading_status"))),
        Column("SOURCE", lambda model: _display_name(model.get("source_repository"))),
        Column.of("owned_by"),
        Column("CREATED", lambda model: format_timestamp(model.get("created"))),
    ]
    if any(model.get("alias_of") for model in document["data"]):
        columns.insert(1, Column.of("alias_of"))
    session.printer.print_records(
        document, document["data"], columns, empty="No models; `llma models pull ID` adds one."
    )


@models.command()
@click.argument("model", metavar="ID")
@pass_session
def get(session: Session, model: str) -> None:
    """Show one model's configuration, state and wake times."""
    from llmariner.cli.support.api import build_path

    document = session.api().get(build_path("models", model), include_loading_model="true")
    session.printer.print_details(document, {**_identity(document), **_configuration(document), **_serving(document)})


@models.command()
@click.argument("model", metavar="ID")
@pass_session
def delete(session: Session, model: str) -> None:
    """Remove a model. An active one must be deactivated first."""
    from llmariner.cli.support.api import build_path

    answer = session.api().delete(build_path("models", model))
    session.printer.print_message(answer, f"Deleted {model}.")


@models.command()
@click.argument("model", metavar="ID")
@pass_session
def activate(session: Session, model: str) -> None:
    """Keep a model awake, ready for requests at once."""
    _set_activation(session, model, "activate", "Activated")


@models.command()
@click.argument("model", metavar="ID")
@pass_session
def deactivate(session: Session, model: str) -> None:
    """Put a model to sleep; a request may wake it again.

    A request wakes it where on-demand allocation is enabled.
    """
    _set_activation(session, model, "deactivate", "Deactivated")


@models.command()
@click.argument("model", metavar="ID")
@pass_session
def retry(session: Session, model: str) -> None:
    """Load a model again whose loading failed.

    What was fetched is kept.
    """
    from llmariner.cli.support.api import build_path

    answer = session.api().post(f"{build_path('models', model)}:retry")
    session.printer.print_message(answer, f"Retrying {model}. `llma models pull {model}` follows its loading.")


models.add_command(aliases)
models.add_command(create)
models.add_command(credentials)
models.add_command(update)
models.add_command(pull)


def _set_activation(session: Session, model: str, action: str, done: str) -> None:
    from llmariner.cli.support.api import build_path

    answer = session.api().post(f"{build_path('models', model)}:{action}")
    session.printer.print_message(answer, f"{done} {model}.")


def _identity(model: Mapping[str, Any]) -> dict[str, str | None]:
    from llmariner.cli.support.output import format_timestamp

    return {
        "id": model.get("id"),
        "alias of": model.get("alias_of"),
        "owned by": model.get("owned_by"),
        "created": format_timestamp(model.get("created")),
        "base model": model.get("base_model_id"),
        "source": _display_name(model.get("source_repository")),
        "formats": ", ".join(_display_name(name) or "" for name in model.get("formats") or []),
        **_traits(model.get("traits") or {}),
        "loading": _display_name(model.get("loading_status")),
        "loading message": model.get("loading_status_message"),
        "loading failure": model.get("loading_failure_reason"),
        "status": _display_name(model.get("activation_status")),
    }


def _traits(traits: Mapping[str, Any]) -> dict[str, str | None]:
    """One line for each trait, with what it was chosen from behind it."""
    origins = traits.get("origins") or {}
    shown: dict[str, str | None] = {}
    for name, value in traits.items():
        if name != "origins":
            origin = origins.get(name)
            text = f"{value} (from {origin})" if origin and origin != value else str(value)
            shown[name.replace("_", " ")] = None if value is None else text
    return shown


def _configuration(model: Mapping[str, Any]) -> dict[str, str | int | None]:
    config = model.get("config") or {}
    runtime = config.get("runtime_config") or {}
    policy = config.get("cluster_allocation_policy") or {}
    on_demand = policy.get("enable_on_demand_allocation")
    return {
        "gpu": (runtime.get("resources") or {}).get("gpu"),
        "replicas": runtime.get("replicas"),
        "extra args": " ".join(runtime.get("extra_args") or []),
        "on demand": None if on_demand is None else ("yes" if on_demand else "no"),
        "allowed clusters": ", ".join(policy.get("allowed_cluster_ids") or []) or None,
    }


def _serving(model: Mapping[str, Any]) -> dict[str, str | int | None]:
    from llmariner.cli.support.errors import format_progress
    from llmariner.cli.support.output import format_timestamp

    serving = model.get("serving") or {}
    wake = serving.get("wake_seconds") or {}
    wakes = [f"{name} {wake[name]:.1f} s" for name in ("p50", "p95") if isinstance(wake.get(name), int | float)]
    return {
        "phase": format_progress(serving),
        "message": serving.get("message"),
        "wakes in": ", ".join(wakes),
        "last request": format_timestamp(serving.get("last_request_at")),
        "requests running": serving.get("requests_running"),
        "requests waiting": serving.get("requests_waiting"),
        "clusters": ", ".join(f"{each['name']} ({each['phase']})" for each in serving.get("clusters") or []) or None,
    }


def _phase(model: Mapping[str, Any]) -> str | None:
    return (model.get("serving") or {}).get("phase")


def _display_name(name: str | None) -> str | None:
    """`SOURCE_REPOSITORY_HUGGING_FACE` as the command line writes it: `hugging-face`."""
    return enum_value(name).lower().replace("_", "-") if name else None
