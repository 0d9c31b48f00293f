"""The matrix as a page: docs/security/authorization.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from llmariner.authorization.matrix import (
    ObjectScope,
    Outcome,
    Ownership,
    RouteAccess,
    Subject,
    decide,
    declared_routes,
)
from llmariner.tenancy.roles.scopes import ADMIN_KEY_SCOPES, ALL_SCOPES

__all__ = ["PAGE", "render_page"]

PAGE = Path("docs/security/authorization.md")

ROLES = {
    "owner": Subject("owner"),
    "admin key": Subject("owner", in_project=False, key_scopes=ADMIN_KEY_SCOPES),
    "reader": Subject("reader", in_project=False),
    "tenant system": Subject("tenant_system", in_project=False),
    "project owner": Subject("reader", "owner"),
    "member": Subject("reader", "member"),
    "viewer": Subject("reader", "viewer"),
}
_INTRODUCTION = """# Who may do what

Written by `python -m llmariner.authorization` from the functions' own declarations and the roles' own scopes; not to be
edited. `tests/functions/authorization` asks every route as every role for its own, a sibling project's and another
organization's object, and finds what stands here.

## Rules

- A caller is a person who signed in or a key. A key does what its scopes and its user's roles both allow; when the user
  leaves the project or the organization, or the project is archived, the key is unknown (401).
- Roles of an organization: `owner`, `reader`, `tenant_system`, or one that the organization made. Roles of a project:
  `owner`, `member`, `viewer`, or one that was made. An organization's owner owns all its projects.
- First the scope is looked at: without it the answer is 403, whatever was asked for. Then the object: what is not the
  caller's to see is answered like what does not exist, 404.
- An admin key (`sk-admin-…`) acts for an owner in the whole organization and in no project: routes that work inside a
  project answer 400, `project_required`; the token path does not know it.

- Models that all projects share are seen by everybody, and made, changed, activated and deleted with the scope
  `api.model.admin` only, beside the scope of the route. The same scope is needed for engine arguments and weight
  locations that are not on the lists for projects ([models](models.md)).

Whose objects a route reaches:

| rule | reaches |
|---|---|
| project | objects of the caller's project, and those that all projects share |
| models | models of the caller's project, and those that all projects share; an admin key is unknown there (401) |
| member | organizations and projects that the caller is in; for an organization's owner, all of it |
| keys | the caller's own API keys; those of the project for who manages its people; all for an owner of the organization |
| organization | all of the caller's organization; only for its owners, admin keys, and roles that it made with the scope |
| installation | everything; only for owners and admin keys of the default organization, who run the installation |
| self | the caller's own |
| functions | called by other functions only, with a signed, short-lived token for that very function |
| everybody | no key is asked for |
"""
_LEGEND = """
## Routes

`mine`: the caller's own. `own`: in the caller's own project. `all`: in all projects of the caller's organization, or all
that the caller sees there. `default`: only those of the default organization. `–`: 403. `400`: no project is selected.
Another organization's objects are 404 for everybody.
"""


def render_page(checkout: Path) -> str:
    """The page's text."""
    routes = declared_routes(checkout)
    return "\n".join([_INTRODUCTION.rstrip(), "", *_scopes(), _LEGEND.rstrip(), "", *_routes(routes)]) + "\n"


def _scopes() -> Iterable[str]:
    yield "## Scopes"
    yield ""
    yield "`default`: only in the default organization."
    yield ""
    yield from _table(
        ["scope", *(name for name in ROLES)],
        (
            [
                f"`{scope}`",
                *(_held(scope, role) for role in ROLES.values()),
            ]
            for scope in sorted(ALL_SCOPES)
        ),
    )


def _held(scope: str, role: Subject) -> str:
    if scope in role.scopes:
        return "yes"
    return "default" if scope in replace(role, in_default_organization=True).scopes else "–"


def _routes(routes: Iterable[RouteAccess]) -> Iterable[str]:
    header = ["route", "scope", "reaches", *ROLES]
    for function, of_it in groupby(sorted(routes, key=lambda route: route.function), lambda route: route.function):
        yield f"### {function}"
        yield ""
        yield from _table(header, (_row(route) for route in of_it))
        yield ""


def _row(route: RouteAccess) -> list[str]:
    scope = f"`{route.scope}`" if route.scope else "none"
    return [f"{route.method} `{route.path}`", scope, route.objects, *(_cell(route, role) for role in ROLES.values())]


def _cell(route: RouteAccess, role: Subject) -> str:
    if route.objects is ObjectScope.FUNCTIONS:
        return "401"
    if route.objects is ObjectScope.INSTALLATION:
        runner = replace(role, in_default_organization=True)
        return "default" if decide(route, runner, Ownership.OWN) is Outcome.ALLOWED else "–"
    own = decide(route, role, Ownership.OWN)
    if own is not Outcome.ALLOWED:
        return "–" if own is Outcome.FORBIDDEN else own
    if decide(route, role, Ownership.SIBLING) is Outcome.ALLOWED:
        return "all"
    return "own" if decide(route, role, Ownership.COLLEAGUE) is Outcome.ALLOWED else "mine"


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterable[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(row)} |"
