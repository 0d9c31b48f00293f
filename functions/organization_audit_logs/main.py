"""/v1/organization/audit_logs: the audit log in OpenAI's format, and the verification of its hash chain."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request

from llmariner.audit import queries
from llmariner.audit.log import verify
from llmariner.audit.queries import Filter
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.audit_events import OPENAI_TYPES, audit_log_object
from llmariner.http.schemas.lists import AuditLogCursor, Limit, filter_values, list_response, range_filter
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_org_admin("api.audit.read")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_audit_logs", context)
    app.get("/v1/organization/audit_logs")(list_audit_logs)
    app.get("/v1/organization/audit_logs:verify")(verify_audit_logs)
    return app


def list_audit_logs(
    request: Request,
    caller: Reader,
    after: AuditLogCursor = None,
    before: AuditLogCursor = None,
    limit: Limit = 20,
    view: Literal["openai", "all"] = "openai",
    tenant_only: bool = False,
) -> dict[str, Any]:
    """One page of audit entries, newest first.

    Filters: event_types, project_ids, actor_ids, actor_emails, resource_ids, effective_at[gt|gte|lt|lte]. Types outside
    OpenAI's log are included with `view` "all" or by event_types. `tenant_only` selects entries of a tenant above the
    organization, of which there are none.
    """
    if tenant_only:
        return list_response([], has_more=False)
    at = range_filter(request, "effective_at")
    filters = Filter(
        types=filter_values(request, "event_types") or (OPENAI_TYPES if view == "openai" else ()),
        project_ids=filter_values(request, "project_ids"),
        actor_ids=filter_values(request, "actor_ids"),
        actor_emails=filter_values(request, "actor_emails"),
        resource_ids=filter_values(request, "resource_ids"),
        after=at.get("gt"),
        since=at.get("gte"),
        before=at.get("lt"),
        until=at.get("lte"),
    )
    paging: dict[str, Any] = {"after": after, "before": before, "limit": limit + 1}
    found = queries.list_entries(context_of(request).database, caller.organization_id, filters, **paging)
    # The additional entry is at the far end of the page, which is the newest entry when paging backwards.
    page = found[-limit:] if before and not after and len(found) > limit else found[:limit]
    return list_response([audit_log_object(entry) for entry in page], has_more=len(found) > limit)


def verify_audit_logs(
    request: Request, caller: Reader, head: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None
) -> dict[str, Any]:
    """Verify the organization's hash chain. `head`: a head that was returned earlier, which the chain must contain."""
    verdict = verify(context_of(request).database, caller.organization_id, known_head=head)
    return {
        "object": "organization.audit_log.verification",
        "organization_id": caller.organization_id,
        "whole": verdict.intact,
        "entries": verdict.entries,
        "head": verdict.head,
        "broken_at": verdict.broken_at,
        "reason": verdict.reason or None,
    }


handle = http_function(build)
