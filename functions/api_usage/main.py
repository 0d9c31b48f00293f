"""GET /v1/api-usage/model-usage-summaries: requests and tokens of each model over time."""

import math
import time
from typing import Annotated, Any

from fastapi import Query, Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.timestamps import Timestamp
from llmariner.tenancy.principal import Caller
from llmariner.usage.reports import UsageQuery, UsageReports

Reader = Annotated[Caller, require_scope("api.api_usages.read", objects="member")]
_DEFAULT_SPAN = 7 * 86400
_MAX_DATAPOINTS = 10_000


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("api_usage", context)
    app.get("/v1/api-usage/model-usage-summaries")(list_model_usage_summaries)
    return app


def list_model_usage_summaries(
    request: Request,
    caller: Reader,
    start: Annotated[Timestamp | None, Query(alias="filter.start_timestamp")] = None,
    end: Annotated[Timestamp | None, Query(alias="filter.end_timestamp")] = None,
    status_code: Annotated[int | None, Query(alias="filter.status_code", ge=0, le=999)] = None,
    interval_sec: Annotated[int, Query(ge=0, le=366 * 86400)] = 3600,
) -> dict[str, Any]:
    """Sums of the usage that the caller may see, in intervals aligned to multiples of their length; timestamps in seconds.

    A timestamp or interval of 0 means the default.
    """
    until = end or math.ceil(time.time())
    since = start or max(0, until - _DEFAULT_SPAN)
    width = interval_sec or 3600
    if (until - since) / width > _MAX_DATAPOINTS:
        raise InvalidRequest(
            f"That is more than {_MAX_DATAPOINTS} intervals: ask for longer ones.", param="interval_sec"
        )
    where: dict[str, tuple[str | int, ...]] = {} if caller.is_owner else {"project_id": (caller.key_owner.project_id,)}
    if status_code:
        where["status"] = (status_code,)
    measures = ("requests", "prompt_tokens", "completion_tokens")
    query = UsageQuery(caller.organization_id, since, until, ("model",), width, where, measures)
    datapoints: dict[int, list[dict[str, Any]]] = {}
    for row in UsageReports(context_of(request).database).sums(query):
        value = {
            "model_id": row["model"],
            "total_requests": row["requests"],
            "total_prompt_tokens": row["prompt_tokens"],
            "total_completion_tokens": row["completion_tokens"],
        }
        datapoints.setdefault(row["start"], []).append(value)
    return {"datapoints": [{"timestamp": at, "values": values} for at, values in sorted(datapoints.items())]}


handle = http_function(build)
