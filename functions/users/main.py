"""/v1/users: the caller's own user, and the users that the caller shares an organization or project with."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.llmariner import user
from llmariner.tenancy.members.users import Users
from llmariner.tenancy.principal import Caller

Self = Annotated[Caller, require_scope("api.selfuser.read", objects="self")]
Reader = Annotated[Caller, require_scope("api.organizations.users.read", objects="member")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("users", context)
    app.get("/v1/users")(list_users)
    app.get("/v1/users:getSelf")(get_self)
    return app


def list_users(request: Request, caller: Reader) -> dict[str, Any]:
    """The organization's users with their roles, for its owners; for other callers, users who share a project with them."""
    return {"users": [user(each) for each in Users(context_of(request).database).visible_to(caller)]}


def get_self(request: Request, caller: Self) -> dict[str, Any]:
    """The caller's user, with their roles."""
    return user(Users(context_of(request).database).current(caller))


handle = http_function(build)
