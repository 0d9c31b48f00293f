"""/v1/organization/spend_alerts: alerts on the organization's monthly spending, in OpenAI's format."""

from typing import Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.resources.spend_alerts import AlertBody, alerts_of
from llmariner.http.resources.spend_limits import Reader, Writer
from llmariner.http.schemas.lists import AlertCursor, Limit, Order, paginate
from llmariner.limits.rules import Subject
from llmariner.tenancy.principal import Caller

_PREFIX = "/v1/organization/spend_alerts"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_spend_alerts", context)
    app.get(_PREFIX)(list_alerts)
    app.post(_PREFIX)(create_alert)
    app.get(f"{_PREFIX}/{{alert_id}}")(get_alert)
    app.post(f"{_PREFIX}/{{alert_id}}")(update_alert)
    app.delete(f"{_PREFIX}/{{alert_id}}")(delete_alert)
    return app


def list_alerts(
    request: Request,
    caller: Reader,
    after: AlertCursor = None,
    before: AlertCursor = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> dict[str, Any]:
    """All spend alerts, by default oldest first."""
    found = alerts_of(request).all(_organization_subject(caller))
    return paginate(found, after=after, before=before, limit=limit, order=order)


def create_alert(request: Request, caller: Writer, body: AlertBody) -> dict[str, Any]:
    """Create an alert on the spending of a month; it rejects no requests."""
    return alerts_of(request).create(caller, _organization_subject(caller), body.threshold_amount, body.channel)


def get_alert(request: Request, caller: Reader, alert_id: str) -> dict[str, Any]:
    """One spend alert."""
    return alerts_of(request).get(_organization_subject(caller), alert_id)


def update_alert(request: Request, caller: Writer, alert_id: str, body: AlertBody) -> dict[str, Any]:
    """Update an alert; a changed amount is alerted again."""
    subject = _organization_subject(caller)
    return alerts_of(request).update(caller, subject, alert_id, body.threshold_amount, body.channel)


def delete_alert(request: Request, caller: Writer, alert_id: str) -> dict[str, Any]:
    """Delete a spend alert."""
    return alerts_of(request).remove(caller, _organization_subject(caller), alert_id)


def _organization_subject(caller: Caller) -> Subject:
    return Subject(caller.organization_id, "organization", caller.organization_id)


handle = http_function(build)
