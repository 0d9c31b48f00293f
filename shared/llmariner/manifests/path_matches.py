"""From a function's routes to the path matches of the Gateway API.

A literal path is an Exact match, a path with parameters a PathPrefix on what stands before the first of them; the
function itself answers 404 and 405 for the rest, in OpenAI's envelope. Only where two functions share a prefix do
regular expressions tell them apart. How a Gateway ranks those against prefixes is its own affair (Gateway API,
HTTPRouteMatch), so no prefix above or below one stays a prefix: among expressions the longest wins everywhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from llmariner.manifests.declarations import DeclarationError, Function, Route

__all__ = ["Match", "matches"]

PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, order=True)
class Match:
    """One match of an HTTPRoute rule; without a method it takes all."""

    type: str
    value: str
    method: str = ""


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


def matches(functions: Iterable[Function], fallback: str | None = None) -> dict[str, list[Match]]:
    """Function name → its matches. `fallback` names the function that also gets what nobody claims.

    DeclarationError where two functions claim the same requests.
    """
    claims = [_Claim(function.name, route) for function in functions for route in function.routes]
    if fallback is not None:
        claims.append(_Claim(fallback, Route("", "/{path:path}")))
    shared = _shared(claims)
    spoken = _expressions(claims, shared)
    by_path: dict[tuple[str, str], list[_Claim]] = defaultdict(list)
    for claim in claims:
        by_path[_place(claim, shared, spoken)].append(claim)
    found: dict[str, set[Match]] = defaultdict(set)
    for (kind, value), rivals in by_path.items():
        _refuse_twins(rivals)
        alone = len({claim.function for claim in rivals}) == 1
        for claim in rivals:
            # Where the path alone does not decide, a wrong method is the Gateway's to answer.
            found[claim.function].add(Match(kind, value, "" if alone else claim.route.method))
    return {name: sorted(each) for name, each in found.items()}


def _shared(claims: list[_Claim]) -> set[str]:
    """Prefixes below which several functions have parameters."""
    owners: dict[str, set[str]] = defaultdict(set)
    for claim in claims:
        if not claim.literal:
            owners[claim.prefix].add(claim.function)
    return {prefix for prefix, names in owners.items() if len(names) > 1}


def _expressions(claims: list[_Claim], shared: set[str]) -> set[str]:
    """Prefixes that must be regular expressions: the shared ones, and all that may meet one of those in a path."""
    prefixes, spoken = {claim.prefix for claim in claims if not claim.literal}, set(shared)
    while more := {each for each in prefixes - spoken if any(_contains(each, s) or _contains(s, each) for s in spoken)}:
        spoken |= more
    return spoken


def _contains(prefix: str, path: str) -> bool:
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def _place(claim: _Claim, shared: set[str], spoken: set[str]) -> tuple[str, str]:
    if claim.literal:
        return "Exact", claim.route.path
    if claim.prefix in shared:
        return "RegularExpression", claim.expression
    if claim.prefix in spoken:
        return "RegularExpression", f"{re.escape(claim.prefix.rstrip('/'))}/.*"
    return "PathPrefix", claim.prefix


def _refuse_twins(rivals: list[_Claim]) -> None:
    taken: dict[str, _Claim] = {}
    for claim in rivals:
        twin = taken.setdefault(claim.route.method, claim)
        if twin.function != claim.function:
            ours, theirs = f"{claim.route.path} of {claim.function}", f"{twin.route.path} of {twin.function}"
            raise DeclarationError(f"{claim.route.method} {ours} and {theirs} cannot be told apart")
