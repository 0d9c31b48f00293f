"""/v1/users: who one is, and whom one works with."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, requires
from llmariner.http.entrypoint import Application, function
from llmariner.http.fastapi_app import api
from llmariner.http.schemas.llmariner import user
from llmariner.tenancy.members.users import Users
from llmariner.tenancy.principal import Caller

Self = Annotated[Caller, requires("api.selfuser.read", objects="self")]
Reader = Annotated[Caller, requires("api.organizations.users.read", objects="member")]


def build(context: Context) -> Application:
    """The routes."""
    app = api("users", context)
    app.get("/v1/users")(list_users)
    app.get("/v1/users:getSelf")(get_self)
    return app


def list_users(request: Request, caller: Reader) -> dict[str, Any]:
    """The organisation's users with all their roles in it, for its owners; for others those who share a project."""
    return {"users": [user(each) for each in Users(context_of(request).database).seen_by(caller)]}


def get_self(request: Request, caller: Self) -> dict[str, Any]:
    """Who calls, with their roles."""
    return user(Users(context_of(request).database).self(caller))


handle = function(build)
