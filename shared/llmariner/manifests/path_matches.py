"""Converts the routes of functions to path matches of the Gateway API.

A literal path is an Exact match, a path with parameters a PathPrefix up to the first of them; the function answers 404
and 405 for the rest, in OpenAI's envelope. Where two functions share a prefix, regular expressions separate them. The
precedence of those over prefixes depends on the implementation (Gateway API, HTTPRouteMatch), so every prefix above or
below one becomes an expression too: among expressions the longest wins everywhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmariner.manifests.declarations import DeclarationError, Function, Route

__all__ = ["Match", "path_matches"]

PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, order=True)
class Match:
    """One match of an HTTPRoute rule; an empty method matches all."""

    type: str
    value: str
    method: str = ""


@dataclass(frozen=True)
class _RouteClaim:
    """A route with the function that declares it."""

    function: str
    route: Route

    @property
    def literal(self) -> bool:
        return not PARAMETER.search(self.route.path)

    @property
    def prefix(self) -> str:
        """The path up to the segment with the first parameter."""
        return self.route.path.partition("{")[0].rpartition("/")[0] or "/"

    @property
    def expression(self) -> str:
        """RE2 expression that the whole path must match."""
        parts: list[str] = []
        end = 0
        for found in PARAMETER.finditer(self.route.path):
            parts += [re.escape(self.route.path[end : found.start()]), ".+" if found[2] else "[^/]+"]
            end = found.end()
        return "".join([*parts, re.escape(self.route.path[end:])])


def path_matches(functions: Iterable[Function], fallback: str | None = None) -> dict[str, list[Match]]:
    """Function name → its matches. `fallback` names the function that also receives unmatched requests.

    DeclarationError where two functions declare the same requests.
    """
    claims = [_RouteClaim(function.name, route) for function in functions for route in function.public_routes]
    if fallback is not None:
        claims.append(_RouteClaim(fallback, Route("", "/{path:path}")))
    shared = _shared(claims)
    ambiguous = _ambiguous_prefixes(claims, shared)
    by_path: dict[tuple[str, str], list[_RouteClaim]] = defaultdict(list)
    for claim in claims:
        by_path[_match_of(claim, shared, ambiguous)].append(claim)
    found: dict[str, set[Match]] = defaultdict(set)
    for (kind, value), group in by_path.items():
        _reject_duplicates(group)
        is_unique = len({claim.function for claim in group}) == 1
        for claim in group:
            # Where the method decides, the Gateway answers requests with another method.
            found[claim.function].add(Match(kind, value, "" if is_unique else claim.route.method))
    return {name: sorted(each) for name, each in found.items()}


def _shared(claims: list[_RouteClaim]) -> set[str]:
    """Prefixes below which several functions have routes with parameters."""
    owners: dict[str, set[str]] = defaultdict(set)
    for claim in claims:
        if not claim.literal:
            owners[claim.prefix].add(claim.function)
    return {prefix for prefix, names in owners.items() if len(names) > 1}


def _ambiguous_prefixes(claims: list[_RouteClaim], shared: set[str]) -> set[str]:
    """Prefixes that must be regular expressions: the shared ones, and all that contain or are contained in one."""
    prefixes, ambiguous = {claim.prefix for claim in claims if not claim.literal}, set(shared)
    while additional := {
        each for each in prefixes - ambiguous if any(_contains(each, s) or _contains(s, each) for s in ambiguous)
    }:
        ambiguous |= additional
    return ambiguous


def _contains(prefix: str, path: str) -> bool:
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def _match_of(claim: _RouteClaim, shared: set[str], ambiguous: set[str]) -> tuple[str, str]:
    if claim.literal:
        return "Exact", claim.route.path
    if claim.prefix in shared:
        return "RegularExpression", claim.expression
    if claim.prefix in ambiguous:
        return "RegularExpression", f"{re.escape(claim.prefix.rstrip('/'))}/.*"
    return "PathPrefix", claim.prefix


def _reject_duplicates(group: list[_RouteClaim]) -> None:
    by_method: dict[str, _RouteClaim] = {}
    for claim in group:
        other = by_method.setdefault(claim.route.method, claim)
        if other.function != claim.function:
            first, second = f"{claim.route.path} of {claim.function}", f"{other.route.path} of {other.function}"
            raise DeclarationError(f"{claim.route.method} {first} and {second} cannot be distinguished")
