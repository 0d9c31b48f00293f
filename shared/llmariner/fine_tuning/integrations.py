"""Services that get the metrics of a job: what a caller says of them, in OpenAI's form and that of MLflow beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.credentials import has_credential
from llmariner.fine_tuning.events import TRACKING_REQUESTED, add_job_event
from llmariner.fine_tuning.tables import fine_tuning_runs
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.tracking_settings import TrackingSettings

__all__ = ["Integration", "IntegrationType", "add_runs", "check_integrations", "request_tracking"]

_MAX_INTEGRATIONS = 4
_MAX_TAGS, _MAX_TAG, _MAX_TAG_VALUE = 20, 64, 500
_MAX_NAME = 128
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESERVED = re.compile(r'[/\\#?%:"\x00-\x1f\x7f]')
"""Characters that names of Weights & Biases may not have: they are parts of addresses there."""
_TAG_KEY = re.compile(r"[A-Za-z0-9_. /-]+")
_RESERVED_TAGS = ("mlflow.", "llmariner.")


@dataclass(frozen=True)
class IntegrationType:
    """The fields of a type. `project` and `name`: which of them say where the run belongs, and what it is called."""

    project: str
    name: str
    fields: tuple[str, ...]
    needs_credential: bool


_TYPES = {
    "wandb": IntegrationType("project", "name", ("project", "name", "entity", "tags"), needs_credential=True),
    "mlflow": IntegrationType("experiment", "run_name", ("experiment", "run_name", "tags", "tracking_uri"), False),
}


@dataclass(frozen=True)
class Integration:
    """One service. `settings`: the fields that were said, under the names of its type."""

    type: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object of OpenAI's API."""
        return {"type": self.type, self.type: {name: self.settings.get(name) for name in _TYPES[self.type].fields}}

    @property
    def project(self) -> str:
        """The project of Weights & Biases, the experiment of MLflow."""
        return str(self.settings[_TYPES[self.type].project])

    @property
    def name(self) -> str | None:
        """The name of the run; None: by the job."""
        return self.settings.get(_TYPES[self.type].name)

    @property
    def entity(self) -> str | None:
        """The user or team of Weights & Biases; None: the default of the credential."""
        return self.settings.get("entity")

    @property
    def tags(self) -> dict[str, str]:
        """Names to values; those of Weights & Biases have none."""
        said = self.settings.get("tags") or {}
        return dict(said) if isinstance(said, Mapping) else dict.fromkeys(said, "")

    def server(self, settings: TrackingSettings) -> str:
        """The server that is named, or the default. Raises InvalidRequest for one that the installation does not allow."""
        servers, named = settings.servers(self.type), self.settings.get("tracking_uri")
        if not servers:
            raise InvalidRequest(
                f"This installation sends nothing to '{self.type}': read the metrics from the job's events and its result "
                "file. An operator names servers with LLMARINER_MLFLOW_SERVERS or LLMARINER_WANDB_SERVER.",
                param="integrations",
                code="unsupported_integration",
            )
        if named is not None and named.rstrip("/") not in servers:
            raise InvalidRequest(
                f"'tracking_uri' must be one of the servers that the installation allows: {', '.join(servers)}.",
                param="integrations",
                code="tracking_server_not_allowed",
            )
        return servers[0] if named is None else str(named).rstrip("/")

    def check(self, where: str) -> None:
        """Raises InvalidRequest for what no integration may have. `where`: its field, for errors."""
        type_ = _TYPES.get(self.type)
        if type_ is None:
            raise _invalid(f"{where}.type", f"must be one of {', '.join(_TYPES)}, not '{self.type[:64]}'")
        strict = self.type == "wandb"
        for field in (type_.project, type_.name, "entity"):
            value = self.settings.get(field)
            if value is None and field != type_.project:
                continue
            forbidden = _RESERVED if strict and field != type_.name else _CONTROL
            if not isinstance(value, str) or not value.strip() or len(value) > _MAX_NAME or forbidden.search(value):
                characters = 'and none of / \\ # ? % : "' if forbidden is _RESERVED else "and no control characters"
                raise _invalid(f"{where}.{self.type}.{field}", f"must have 1 to {_MAX_NAME} characters {characters}")
        _check_tags(f"{where}.{self.type}.tags", self.settings.get("tags") or (), labels=strict)


def check_integrations(
    session: ReadSession, project_id: str, integrations: Sequence[Integration], settings: TrackingSettings
) -> None:
    """Raises InvalidRequest for integrations that a job of the project can't have."""
    if len(integrations) > _MAX_INTEGRATIONS:
        raise _invalid("integrations", f"may have {_MAX_INTEGRATIONS} entries at most")
    for number, each in enumerate(integrations):
        each.check(where := f"integrations[{number}]")
        if each in integrations[:number]:
            raise _invalid(where, "is the same as another one")
        server = each.server(settings)
        if _TYPES[each.type].needs_credential and not has_credential(session, project_id, each.type, server):
            raise InvalidRequest(
                f"The project has no credential for '{each.type}': an owner of the project sets it with "
                "POST /v1/fine_tuning/credentials.",
                param=where,
                code="missing_credential",
            )


def add_runs(session: WriteSession, job: Row[Any], settings: TrackingSettings) -> None:
    """Add a run for each integration of a new job, to begin when the job trains."""
    place = {"organization_id": job.organization_id, "project_id": job.project_id}
    for number, said in enumerate(json.loads(job.integrations or "[]")):
        each = Integration(**said)
        values = {"server": each.server(settings), "type": each.type, "state": "active", "sent_step": -1}
        zero = dict.fromkeys(("sent_points", "requested", "served", "failures"), 0)
        times = dict.fromkeys(("leased_until", "retry_at", "asked_at"), 0.0)
        session.add(fine_tuning_runs, job_id=job.id, number=number, **place, **values, **zero, **times)


def request_tracking(session: WriteSession, job: Row[Any]) -> None:
    """Have what happened in a job, which is locked, sent to its integrations.

    One event at a time: what is requested while a request waits is sent with it.
    """
    if not job.integrations:
        return
    c, waits = fine_tuning_runs.c, False
    runs = select(fine_tuning_runs).where(c.job_id == job.id, c.state == "active").with_for_update()
    for run in session.rows(runs):
        values: dict[str, Any] = {"requested": c.requested + 1}
        if run.requested == run.served:
            values["asked_at"], waits = session.now(), True
        this = (c.job_id == job.id) & (c.number == run.number)
        session.run(update(fine_tuning_runs).where(this).values(**values))
    if waits:
        add_job_event(session, TRACKING_REQUESTED, job)


def _check_tags(where: str, tags: Any, *, labels: bool) -> None:
    if len(tags) > _MAX_TAGS:
        raise _invalid(where, f"may have {_MAX_TAGS} entries at most")
    for tag in tags:
        if not tag.strip() or len(tag) > _MAX_TAG or _CONTROL.search(tag):
            raise _invalid(where, f"has tags of 1 to {_MAX_TAG} characters, without control characters")
        if labels:
            continue
        if not _TAG_KEY.fullmatch(tag) or tag.startswith(_RESERVED_TAGS):
            raise _invalid(
                where,
                "has names of letters, digits, '_', '.', ' ', '/' and '-', which don't begin with 'mlflow.' or 'llmariner.'",
            )
        if len(tags[tag]) > _MAX_TAG_VALUE or "\0" in tags[tag]:
            raise _invalid(where, f"has values of up to {_MAX_TAG_VALUE} characters, without NUL")


def _invalid(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' {why}.", param=param, code="invalid_value")
