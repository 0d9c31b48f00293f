"""The routes that functions declare in func.yaml, which the tests of this folder iterate over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from .processes import CHECKOUT

__all__ = [
    "AUTHENTICATED",
    "CLUSTER_LOCAL",
    "FUNCTIONS",
    "ROUTES",
    "TOKEN_PATH",
    "UNAUTHENTICATED",
    "WITH_TOKENS_OF_THEIR_OWN",
    "DeclaredRoute",
    "without_parameter_names",
]

TOKEN_PATH = frozenset({"chat_completions", "completions", "embeddings", "rerank", "tokenize", "detokenize"})
_EXAMPLES = {"id:path": "org/unknown", "operation": "changes"}
_UNKNOWN = "unknown_1"


@dataclass(frozen=True)
class DeclaredRoute:
    """A route of a function."""

    function: str
    method: str
    path: str

    @property
    def example(self) -> str:
        """The path with unknown ids in place of its parameters."""
        return re.sub(r"\{([^}]+)\}", lambda match: _EXAMPLES.get(match[1], _UNKNOWN), self.path)

    @property
    def pattern(self) -> re.Pattern[str]:
        """The pattern of this route's complete paths."""
        parts = re.split(r"(\{[^}]+\})", self.path)
        return re.compile("".join(_part(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def without_parameter_names(path: str) -> str:
    """A path without the names of its parameters, which only the function uses."""
    return re.sub(r"\{\w+(:path)?\}", r"{\1}", path)


def _part(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    return ".+" if part.endswith(":path}") else "[^/]+"


def _annotations(name: str) -> dict[str, Any]:
    text = (CHECKOUT / "functions" / name / "func.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["deploy"]["annotations"]
    return found


def _routes(name: str) -> list[DeclaredRoute]:
    lines = _annotations(name)["llmariner.ai/routes"].split("\n")
    return [DeclaredRoute(name, *line.split()) for line in lines if line.strip()]


FUNCTIONS = sorted(path.parent.name for path in (CHECKOUT / "functions").glob("*/func.yaml"))
ROUTES = [route for name in FUNCTIONS for route in _routes(name)]
CLUSTER_LOCAL = frozenset(
    name for name in FUNCTIONS if _annotations(name).get("llmariner.ai/visibility") == "cluster-local"
)
"""Functions that the router of the standalone mode does not serve."""
UNAUTHENTICATED = frozenset({"auth", "health", "invitations"})
"""Functions without authentication."""
WITH_TOKENS_OF_THEIR_OWN = frozenset(
    {"internal_gateway", "fine_tuning_adapters", "fine_tuning_workers", "clusters_agent", "batch_jobs_results"}
)
"""Functions that take neither keys nor sign-ins."""
ROUTES_WITH_TOKENS_OF_THEIR_OWN = frozenset(
    {
        "/v1/sessions/agent",
        "/v1/sessions/peers",
        "/internal/sessions/{cluster_id}/engines/{path:path}",
        "/internal/sessions/{cluster_id}/kubernetes/{path:path}",
    }
)
"""Routes that take neither, of functions that take them."""
AUTHENTICATED = [
    route
    for route in ROUTES
    if route.function not in UNAUTHENTICATED | WITH_TOKENS_OF_THEIR_OWN
    and route.path not in ROUTES_WITH_TOKENS_OF_THEIR_OWN
]
