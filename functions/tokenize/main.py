"""POST /v1/tokenize: on the token path."""

from llmariner.context import Context
from llmariner.gateway.app import RouteApp
from llmariner.gateway.fields import TOKENIZE
from llmariner.http.function import function


def build(context: Context) -> RouteApp:
    """The route's application."""
    return RouteApp(context.gateway, TOKENIZE)


handle = function(build)
