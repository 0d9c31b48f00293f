"""/v1/organization/admin_api_keys: keys that administer the organization and use no project, in OpenAI's format."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.organization_admins import require_org_admin
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas import openai as schemas
from llmariner.http.schemas.bodies import Body
from llmariner.http.schemas.lists import KeyCursor, Limit, Order, list_response
from llmariner.tenancy.keys.store import KeySelector, NewKey
from llmariner.tenancy.organizations.queries import OrganizationQueries, Paging
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.roles.scopes import ADMIN_KEY_SCOPES

Reader = Annotated[Caller, require_org_admin("api.organizations.read")]
Writer = Annotated[Caller, require_org_admin("api.organizations.write")]


class AdminKeyBody(Body):
    """POST of an admin key. `expires_in_seconds` None: never expires."""

    name: str
    expires_in_seconds: int | None = Field(default=None, ge=1, le=10 * 365 * 86400)


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("organization_admin_api_keys", context)
    app.get("/v1/organization/admin_api_keys")(list_keys)
    app.post("/v1/organization/admin_api_keys")(create_key)
    app.get("/v1/organization/admin_api_keys/{key_id}")(get_key)
    app.delete("/v1/organization/admin_api_keys/{key_id}")(delete_key)
    return app


def list_keys(
    request: Request, caller: Reader, after: KeyCursor = None, limit: Limit = 20, order: Order = "asc"
) -> dict[str, Any]:
    """Active admin keys, by default oldest first."""
    rows, more = _queries(request).admin_keys(caller.organization_id, Paging(after, limit, order))
    return list_response([schemas.admin_key(row) for row in rows], has_more=more)


def create_key(request: Request, caller: Writer, body: AdminKeyBody) -> dict[str, Any]:
    """Create an admin key that acts for the caller, without scopes the caller lacks. Only this response has its secret."""
    new = NewKey(body.name, ADMIN_KEY_SCOPES & caller.scopes, expires_in=body.expires_in_seconds)
    created, secret = context_of(request).keys.create_admin(caller, new)
    return schemas.admin_key(_queries(request).admin_key(caller.organization_id, created.id), secret)


def get_key(request: Request, caller: Reader, key_id: str) -> dict[str, Any]:
    """One admin key."""
    return schemas.admin_key(_queries(request).admin_key(caller.organization_id, key_id))


def delete_key(request: Request, caller: Writer, key_id: str) -> dict[str, Any]:
    """Revoke an admin key, effective everywhere within seconds."""
    context_of(request).keys.revoke(KeySelector(caller.organization_id, kind="admin"), key_id, actor=caller)
    return schemas.deleted("organization.admin_api_key", key_id)


def _queries(request: Request) -> OrganizationQueries:
    return OrganizationQueries(context_of(request).database)


handle = http_function(build)
