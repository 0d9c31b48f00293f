"""POST /v1/rerank: on the token path."""

from llmariner.context import Context
from llmariner.gateway.requests.fields import RERANK
from llmariner.gateway.requests.route_app import RouteApp
from llmariner.http.entrypoint import http_function


def build(context: Context) -> RouteApp:
    """The application of the route."""
    return RouteApp(context.gateway, RERANK)


handle = http_function(build)
