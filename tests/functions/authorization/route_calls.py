"""Calls of routes that the walk makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .world import Tenant, World

__all__ = ["CallFactory", "RouteCall", "no_object"]


@dataclass(frozen=True)
class RouteCall:
    """The path parameters, body and query of a call."""

    path: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


CallFactory = Callable[[World, Tenant], RouteCall]


def no_object(_world: World, _place: Tenant) -> RouteCall:
    """A route without an object."""
    return RouteCall()
