"""POST /v1/detokenize: on the token path."""

from llmariner.context import Context
from llmariner.gateway.app import RouteApp
from llmariner.gateway.fields import DETOKENIZE
from llmariner.http.function import function


def build(context: Context) -> RouteApp:
    """The route's application."""
    return RouteApp(context.gateway, DETOKENIZE)


handle = function(build)
