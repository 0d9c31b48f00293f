"""From a function's routes to the path matches of the Gateway API.

A literal path is an Exact match, a path with parameters a PathPrefix on what stands before the first of them; the
function itself answers 404 and 405 for the rest, in OpenAI's envelope. Only where two functions share a prefix do
regular expressions tell them apart. How a Gateway ranks those against prefixes is its own affair (Gateway API,
HTTPRouteMatch), so around them prefixes become regular expressions too, and the longer expression wins everywhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llmariner.manifests.declarations import DeclarationError, Function, Route

__all__ = ["Match", "matches"]

PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, order=True)
class Match:
    """One match of an HTTPRoute rule; without a method it takes all."""

    type: str
    value: str
    method: str | None = None


@dataclass(frozen=True)
class _Claim:
    """A route that a function wants to be given."""

    function: str
    route: Route

    @property
    def literal(self) -> bool:
        return not PARAMETER.search(self.route.path)

    @property
    def prefix(self) -> str:
        """The whole segments before the first parameter."""
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


def matches(functions: Iterable[Function]) -> dict[str, list[Match]]:
    """Function name → its matches. DeclarationError where two functions claim the same requests."""
    claims = [_Claim(function.name, route) for function in functions for route in function.routes]
    contested = _contested(claims)
    by_path: dict[tuple[str, str], list[_Claim]] = defaultdict(list)
    for claim in claims:
        by_path[_place(claim, contested)].append(claim)
    found: dict[str, set[Match]] = defaultdict(set)
    for (kind, value), rivals in by_path.items():
        for claim, method in _by_method(kind, rivals):
            found[claim.function].add(Match(kind, value, method))
    return {name: sorted(each) for name, each in found.items()}


def _contested(claims: list[_Claim]) -> frozenset[str]:
    """Prefixes below which several functions have parameters, and all prefixes that contain one of these."""
    owners: dict[str, set[str]] = defaultdict(set)
    for claim in claims:
        if not claim.literal:
            owners[claim.prefix].add(claim.function)
    shared = {prefix for prefix, names in owners.items() if len(names) > 1}
    return frozenset(prefix for prefix in owners if any(_contains(prefix, each) for each in shared))


def _contains(prefix: str, path: str) -> bool:
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def _place(claim: _Claim, contested: frozenset[str]) -> tuple[str, str]:
    if claim.literal:
        return "Exact", claim.route.path
    if claim.prefix in contested:
        return "RegularExpression", claim.expression
    return "PathPrefix", claim.prefix


def _by_method(kind: str, rivals: list[_Claim]) -> Iterator[tuple[_Claim, str | None]]:
    """Methods matter only where a path alone does not decide: there a wrong one is the Gateway's to answer."""
    decided = len({claim.function for claim in rivals}) == 1 and kind != "RegularExpression"
    taken: dict[str, _Claim] = {}
    for claim in rivals:
        twin = taken.setdefault(claim.route.method, claim)
        if twin.function != claim.function:
            ours, theirs = f"{claim.route.path} of {claim.function}", f"{twin.route.path} of {twin.function}"
            raise DeclarationError(f"{claim.route.method} {ours} and {theirs} cannot be told apart")
        yield claim, None if decided else claim.route.method
