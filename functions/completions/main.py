"""POST /v1/completions: on the token path."""

from llmariner.context import Context
from llmariner.gateway.app import RouteApp
from llmariner.gateway.fields import COMPLETIONS
from llmariner.http.function import function


def build(context: Context) -> RouteApp:
    """The route's application."""
    return RouteApp(context.gateway, COMPLETIONS)


handle = function(build)
