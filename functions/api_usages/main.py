"""GET /v1/api_usages: what the caller's project used, by key, model and day."""

import time
from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.http.app import api
from llmariner.http.authentication import context_of, requires
from llmariner.http.function import Application, function
from llmariner.tenancy.caller import Caller
from llmariner.usage.ledger import UsageQuery

Reader = Annotated[Caller, requires("api.api_usages.read")]
_DEFAULT_SPAN = 30 * 86400


def build(context: Context) -> Application:
    """The route."""
    app = api("api_usages", context)
    app.get("/v1/api_usages")(list_usage)
    return app


def list_usage(
    request: Request,
    key: Reader,
    start_time: Annotated[float | None, Query(ge=0, le=1e11)] = None,
    end_time: Annotated[float | None, Query(ge=0, le=1e11)] = None,
    group_by: str = "key,model,day",
) -> dict[str, Any]:
    """Sums over [start_time, end_time), seconds since 1970; by default the last thirty days."""
    end = end_time if end_time is not None else time.time() + 1
    start = start_time if start_time is not None else end - _DEFAULT_SPAN
    groups = tuple(name.strip() for name in group_by.split(",") if name.strip())
    query = UsageQuery(key.owner.project_id, start, end, groups)
    data = context_of(request).ledger.usage(query)
    return {"object": "list", "start_time": start, "end_time": end, "group_by": list(groups), "data": data}


handle = function(build)
