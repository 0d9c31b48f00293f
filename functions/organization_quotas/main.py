"""/v1/organization/quotas: the GPUs, cores and memory of projects and of the organization, with their use."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.organization_admins import check_org_admin, is_installation_owner, require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import Limit, ProjectCursor, list_response
from llmariner.platform.capacity import RESOURCES, QuotaLimit, Use
from llmariner.quotas.quota import Quota, Subject
from llmariner.quotas.quotas import Quotas
from llmariner.quotas.representation import pool_object, quota_object
from llmariner.quotas.subjects import QuotaSubjects
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.access_scope import can_view_all_projects

READ, WRITE = "api.organizations.projects.read", "api.limits.write"
Reader = Annotated[Caller, require_scope(READ, objects="member")]
Writer = Annotated[Caller, require_org_admin(WRITE)]
Whole = Annotated[int, Field(ge=0)]
# A thousandth of a core is the least; larger amounts are checked where they are stored.
Cores = Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False)]


class WholeAmounts(Body):
    """A quota in GPUs or bytes. `borrowing_limit`: what may be borrowed beyond `nominal`; null: all that is free."""

    nominal: Whole
    borrowing_limit: Whole | None = 0


class CoreAmounts(Body):
    """A quota in cores, as `WholeAmounts`."""

    nominal: Cores
    borrowing_limit: Cores | None = 0


class QuotaBody(Body):
    """POST /v1/organization/quotas/{id}. An absent resource is unchanged; null: no quota on it."""

    gpu: WholeAmounts | None = None
    cpu: CoreAmounts | None = None
    memory: WholeAmounts | None = None


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_quotas", context)
    app.get("/v1/organization/quotas")(list_quotas)
    app.get("/v1/organization/quotas/{id}")(get_quota)
    app.post("/v1/organization/quotas/{id}")(set_quota)
    app.delete("/v1/organization/quotas/{id}")(delete_quota)
    return app


def list_quotas(request: Request, caller: Reader, after: ProjectCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The caller's projects with their quotas and use, oldest first, those without a quota too.

    `organization`: its own quota with the use of all its projects, for who sees all of them; `pool`: what there is for all
    organizations together, for owners of the installation; else null.
    """
    context = context_of(request)
    own = None if can_view_all_projects(caller) else caller.project_id or ""
    rows = QuotaSubjects(context.database).page(caller.organization_id, own, after=after, limit=limit + 1)
    use, found = context.capacity.use(), _quotas(context).of_projects([row.id for row in rows])
    shown = [_project(caller.organization_id, row.id, row.title, found.get(row.id), use) for row in rows[:limit]]
    pool = pool_object(use.pool, use.claims) if is_installation_owner(request, caller) else None
    organization = _organization(context, caller.organization_id, use) if own is None else None
    return {**list_response(shown, has_more=len(rows) > limit), "organization": organization, "pool": pool}


def get_quota(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """The quota and the use of a project, or of the organization; for owners of the installation, of any."""
    context = context_of(request)
    subjects = QuotaSubjects(context.database)
    if is_installation_owner(request, caller):
        subject, name = subjects.find_any(id)
    else:
        subject, name = subjects.find(caller, id, READ)
        if subject.project_id is None:
            check_org_admin(request, caller, READ)
    return _serialize(context, subject, name, _quotas(context).find(subject))


def set_quota(request: Request, caller: Writer, id: str, body: QuotaBody) -> dict[str, Any]:
    """Set quotas of a project; of an organization, for owners of the installation."""
    context = context_of(request)
    subject, name, operator = _writable(request, caller, id)
    changes = {each: _limit(each, getattr(body, each)) for each in RESOURCES if each in body.model_fields_set}
    return _serialize(context, subject, name, _quotas(context).put(caller, subject, changes, operator=operator))


def delete_quota(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Delete the quota of a project; of an organization or an archived project, for owners of the installation."""
    subject, _, operator = _writable(request, caller, id, include_archived=True)
    _quotas(context_of(request)).remove(caller, subject, operator=operator)
    return {"id": id, "object": "organization.quota.deleted", "deleted": True}


def _quotas(context: Context) -> Quotas:
    return Quotas(context.database, lambda: context.capacity)


def _writable(
    request: Request, caller: Caller, id: str, *, include_archived: bool = False
) -> tuple[Subject, str, bool]:
    """The subject, its name, and whether the caller runs the installation, who also finds archived projects."""
    operator = is_installation_owner(request, caller)
    subjects = QuotaSubjects(context_of(request).database)
    if operator:
        subject, name = subjects.find_any(id, include_archived=include_archived)
    else:
        subject, name = subjects.find(caller, id, WRITE)
    if subject.project_id is None and not operator:
        raise PermissionDenied(
            "Only an owner of the default organization, who runs the installation, sets the quota of an organization."
        )
    return subject, name, operator


def _limit(resource: str, amounts: WholeAmounts | CoreAmounts | None) -> QuotaLimit | None:
    if amounts is None:
        return None
    nominal = _whole(resource, "nominal", amounts.nominal)
    borrowing = amounts.borrowing_limit
    return QuotaLimit(nominal, None if borrowing is None else _whole(resource, "borrowing_limit", borrowing))


def _whole(resource: str, name: str, amount: float) -> int:
    """An amount in the smallest unit. InvalidRequest for a part of it, which would be rounded away."""
    exact = amount * (1000 if resource == "cpu" else 1)
    if abs(exact - round(exact)) > 1e-4 or (amount and not round(exact)):
        raise InvalidRequest(
            f"'{resource}.{name}' has more than three decimals: a thousandth of a core is the least.",
            param=f"{resource}.{name}",
            code="out_of_range",
        )
    return round(exact)


def _project(organization_id: str, project_id: str, name: str, quota: Quota | None, use: Use) -> dict[str, Any]:
    claims = [each for each in use.claims if each.project_id == project_id]
    return quota_object(Subject(organization_id, project_id), name, quota, claims)


def _organization(context: Context, organization_id: str, use: Use) -> dict[str, Any]:
    subject, name = QuotaSubjects(context.database).find_any(organization_id)
    return _of_organization(context, subject, name, _quotas(context).find(subject), use)


def _of_organization(context: Context, subject: Subject, name: str, quota: Quota | None, use: Use) -> dict[str, Any]:
    own = QuotaSubjects(context.database).projects_of(subject.organization_id)
    return quota_object(subject, name, quota, [each for each in use.claims if each.project_id in own])


def _serialize(context: Context, subject: Subject, name: str, quota: Quota | None) -> dict[str, Any]:
    use = context.capacity.use()
    if subject.project_id is not None:
        return _project(subject.organization_id, subject.project_id, name, quota, use)
    return _of_organization(context, subject, name, quota, use)


handle = http_function(build)
