"""Routes paths to functions by the functions' declarations, from which a cluster's gateway routes are generated too."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import yaml

from llmariner.boot import load
from llmariner.context import Context
from llmariner.errors import UnknownUrl
from llmariner.gateway.responses.messages import default_headers, send_error
from llmariner.http.entrypoint import LazyApplication
from llmariner.http.middleware.cors import Cors
from llmariner.http.middleware.stack import MiddlewareStack

__all__ = ["Router", "declared_paths", "path_pattern"]

_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


def declared_paths(folder: Path) -> list[str]:
    """The paths in a function's func.yaml; empty for an internal function."""
    annotations = yaml.safe_load((folder / "func.yaml").read_text())["deploy"]["annotations"]
    if annotations.get("llmariner.ai/visibility", "public") != "public":
        return []
    routes = [line.split() for line in annotations["llmariner.ai/routes"].splitlines() if line.strip()]
    return list(dict.fromkeys(path for _, path in routes))


def path_pattern(template: str) -> re.Pattern[str]:
    """A template such as /v1/models/{id:path} as a regular expression for `fullmatch`."""
    pattern, at = "", 0
    for match in _PARAMETER.finditer(template):
        pattern += re.escape(template[at : match.start()]) + (".+" if match[2] else "[^/]+")
        at = match.end()
    return re.compile(pattern + re.escape(template[at:]))


class Router:
    """An ASGI application of all functions in a folder."""

    def __init__(self, functions: Path, context: Context) -> None:
        self._exact: dict[str, LazyApplication] = {}
        self._patterns: list[tuple[re.Pattern[str], LazyApplication]] = []
        for folder in sorted(path.parent for path in functions.glob("*/func.yaml")):
            application = load(folder)
            application.use_context(context)
            for path in declared_paths(folder):
                if "{" in path:
                    self._patterns.append((path_pattern(path), application))
                else:
                    self._exact[path] = application
        # The functions of the token path share one gateway here, so any of them serves the metrics of all.
        self._exact["/metrics"] = self._exact["/v1/chat/completions"]
        self._application = MiddlewareStack(self._route, Cors.load(context.env))

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """Serve one request."""
        return self._application(scope, receive, send)

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        application = self._exact.get(path) or self._match(path)
        if application is None:
            await send_error(send, UnknownUrl(scope["method"], path), default_headers())
        else:
            await application.prepare().application(scope, receive, send)

    def _match(self, path: str) -> LazyApplication | None:
        return next((application for pattern, application in self._patterns if pattern.fullmatch(path)), None)
