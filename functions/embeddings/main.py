"""POST /v1/embeddings: on the token path."""

from llmariner.context import Context
from llmariner.gateway.requests.fields import EMBEDDINGS
from llmariner.gateway.requests.route_app import RouteApp
from llmariner.http.entrypoint import http_function


def build(context: Context) -> RouteApp:
    """The application of the route."""
    return RouteApp(context.gateway, EMBEDDINGS)


handle = http_function(build)
