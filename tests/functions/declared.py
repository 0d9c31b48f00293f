"""What the functions declare in their func.yaml: the one list of routes that every test of this folder walks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from .children import CHECKOUT

__all__ = ["FUNCTIONS", "KEYED", "OPEN", "ROUTES", "TOKEN_PATH", "Declared", "anonymous"]

TOKEN_PATH = frozenset({"chat_completions", "completions", "embeddings", "tokenize", "detokenize"})
_CONCRETE = {"id:path": "org/unknown", "operation": "changes"}
_UNKNOWN = "unknown_1"


@dataclass(frozen=True)
class Declared:
    """A route of a function."""

    function: str
    method: str
    path: str

    @property
    def example(self) -> str:
        """The path with something unknown in its place-holders."""
        return re.sub(r"\{([^}]+)\}", lambda match: _CONCRETE.get(match[1], _UNKNOWN), self.path)

    @property
    def pattern(self) -> re.Pattern[str]:
        """Whole paths of this route."""
        parts = re.split(r"(\{[^}]+\})", self.path)
        return re.compile("".join(_part(part) for part in parts))

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def anonymous(path: str) -> str:
    """A path without the names of its place-holders, which are the function's own affair."""
    return re.sub(r"\{\w+(:path)?\}", r"{\1}", path)


def _part(part: str) -> str:
    if not part.startswith("{"):
        return re.escape(part)
    return ".+" if part.endswith(":path}") else "[^/]+"


def _annotations(name: str) -> dict[str, Any]:
    text = (CHECKOUT / "functions" / name / "func.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)["deploy"]["annotations"]
    return found


def _routes(name: str) -> list[Declared]:
    lines = _annotations(name)["llmariner.ai/routes"].split("\n")
    return [Declared(name, *line.split()) for line in lines if line.strip()]


FUNCTIONS = sorted(path.parent.name for path in (CHECKOUT / "functions").glob("*/func.yaml"))
ROUTES = [route for name in FUNCTIONS for route in _routes(name)]
OPEN = frozenset({"auth", "health", "invitations"})
"""Functions that ask for no key."""
KEYED = [route for route in ROUTES if route.function not in {*OPEN, "internal_gateway"}]
