"""/v1/organization/projects/{project_id}/spend_alerts: alerts on a project's monthly spending, in OpenAI's format."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.spend_alerts import AlertBody, alerts_of
from llmariner.http.resources.spend_limits import READ, WRITE, Reader, Writer
from llmariner.http.schemas.lists import AlertCursor, Limit, Order, paginate
from llmariner.limits.authorization import authorize_subject
from llmariner.limits.rules import Subject
from llmariner.tenancy.principal import Caller

_PREFIX = "/v1/organization/projects/{project_id}/spend_alerts"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_projects_spend_alerts", context)
    app.get(_PREFIX)(list_alerts)
    app.post(_PREFIX)(create_alert)
    app.get(f"{_PREFIX}/{{alert_id}}")(get_alert)
    app.post(f"{_PREFIX}/{{alert_id}}")(update_alert)
    app.delete(f"{_PREFIX}/{{alert_id}}")(delete_alert)
    return app


def list_alerts(
    request: Request,
    caller: Reader,
    project_id: str,
    after: AlertCursor = None,
    before: AlertCursor = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> dict[str, Any]:
    """All spend alerts, by default oldest first."""
    found = alerts_of(request).all(_project_subject(request, caller, project_id, READ))
    return paginate(found, after=after, before=before, limit=limit, order=order)


def create_alert(request: Request, caller: Writer, project_id: str, body: AlertBody) -> dict[str, Any]:
    """Create an alert on the spending of a month; it rejects no requests."""
    return alerts_of(request).create(
        caller, _project_subject(request, caller, project_id, WRITE), body.threshold_amount, body.channel
    )


def get_alert(request: Request, caller: Reader, project_id: str, alert_id: str) -> dict[str, Any]:
    """One spend alert."""
    return alerts_of(request).get(_project_subject(request, caller, project_id, READ), alert_id)


def update_alert(request: Request, caller: Writer, project_id: str, alert_id: str, body: AlertBody) -> dict[str, Any]:
    """Update an alert; a changed amount is alerted again."""
    subject = _project_subject(request, caller, project_id, WRITE)
    return alerts_of(request).update(caller, subject, alert_id, body.threshold_amount, body.channel)


def delete_alert(request: Request, caller: Writer, project_id: str, alert_id: str) -> dict[str, Any]:
    """Delete a spend alert."""
    return alerts_of(request).remove(caller, _project_subject(request, caller, project_id, WRITE), alert_id)


def _project_subject(request: Request, caller: Caller, project_id: str, scope: str) -> Subject:
    return authorize_subject(context_of(request).database, caller, "project", project_id, scope)


handle = http_function(build)
