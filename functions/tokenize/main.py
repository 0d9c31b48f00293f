"""POST /v1/tokenize: on the token path."""

from llmariner.context import Context
from llmariner.gateway.requests.fields import TOKENIZE
from llmariner.gateway.requests.route_app import RouteApp
from llmariner.http.entrypoint import http_function


def build(context: Context) -> RouteApp:
    """The application of the route."""
    return RouteApp(context.gateway, TOKENIZE)


handle = http_function(build)
