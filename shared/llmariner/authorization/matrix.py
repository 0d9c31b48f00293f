"""What each route asks of its caller, read from the functions themselves, and what becomes of a caller of each role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from llmariner.boot import load
from llmariner.context import Context
from llmariner.tenancy.roles.scopes import INSTALLATION_SCOPES, ORGANIZATION_ROLES, PROJECT_ROLES, with_implied

__all__ = [
    "ObjectScope",
    "Outcome",
    "Ownership",
    "RouteAccess",
    "Subject",
    "UndeclaredRouteError",
    "decide",
    "declared_routes",
]

_PROBES = ("/health/live", "/health/ready")
# Nothing is read: a context that knows where a database would be builds every route, and asks it for nothing.
_SETTINGS = {
    "LLMARINER_DATABASE_URL": "sqlite://",
    "LLMARINER_PEPPER": "0" * 32,
    "LLMARINER_SERVICE_SECRET": "0" * 32,
    "LLMARINER_SERVING": "static",
    "LLMARINER_SERVING_STATIC": "{}",
}


class UndeclaredRouteError(Exception):
    """A route says neither a scope nor that it is for everybody."""


class ObjectScope(StrEnum):
    """Whose objects a route reaches."""

    EVERYBODYS = "everybody"
    """There is nothing to protect; no key is asked for."""
    FUNCTIONS = "functions"
    """Other functions only, by a signed token."""
    SELF = "self"
    """The caller's own, wherever it works."""
    PROJECT = "project"
    """Those of the caller's project, and what all projects share."""
    MODELS = "models"
    """Models of the caller's project and those that all projects share; an admin key is no key there."""
    MEMBER = "member"
    """Those of the organizations and projects that the caller is in; an owner is in all of its organization."""
    KEYS = "keys"
    """The caller's own keys; for who manages the people of a project those of the project, for an owner all."""
    ORGANIZATION = "organization"
    """All of the caller's organization, for those who administer it."""
    INSTALLATION = "installation"
    """Everything, for owners of the default organization, who run the installation."""


class Ownership(StrEnum):
    """To whom an object belongs, seen from the caller."""

    OWN = "own"
    COLLEAGUE = "colleague's"
    """Somebody else's, in the caller's own project."""
    SIBLING = "sibling project's"
    OTHER = "other organization's"


class Outcome(StrEnum):
    """What becomes of a request."""

    ALLOWED = "allowed"
    NO_PROJECT = "400"
    UNKNOWN = "401"
    FORBIDDEN = "403"
    HIDDEN = "404"


@dataclass(frozen=True)
class RouteAccess:
    """What a route asks. `scope` None: no scope is looked at."""

    function: str
    method: str
    path: str
    scope: str | None
    objects: ObjectScope

    @property
    def names_organization(self) -> bool:
        """Whether its path names an organization and nothing smaller, to all members of which it is open."""
        return "{organization_id}" in self.path and "{project_id}" not in self.path

    @property
    def names_object(self) -> bool:
        """Whether its path names a project or one object of a project."""
        return not self.names_organization and "{" in self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Subject:
    """A caller as the matrix sees one. `cut` are the scopes of a key that carries fewer than its user holds.

    `person`: one who signed in, and stands in whatever organization or project a path names.
    """

    organization_role: str | None
    project_role: str | None = None
    in_project: bool = True
    in_default_organization: bool = False
    key_scopes: frozenset[str] | None = None
    signed_in: bool = False

    @property
    def is_owner(self) -> bool:
        """Whether it owns the organization."""
        return self.organization_role == "owner"

    @property
    def works_in_project(self) -> bool:
        """Whether it works in the project that it is asked about."""
        return self.is_owner or (self.in_project and self.project_role is not None)

    @property
    def scopes(self) -> frozenset[str]:
        """What it holds: an organization's owner owns the project it works in."""
        project_role = self.project_role or ("owner" if self.is_owner and self.in_project else None)
        held = ORGANIZATION_ROLES.get(self.organization_role or "", frozenset())
        if self.is_owner and self.in_default_organization:
            held |= INSTALLATION_SCOPES
        held = with_implied(held | PROJECT_ROLES.get(project_role or "", frozenset()))
        return held if self.key_scopes is None else held & with_implied(self.key_scopes)


def decide(access: RouteAccess, caller: Subject | None, whose: Ownership) -> Outcome:
    """What becomes of that caller, None for one whom nobody knows, who asks for somebody's object.

    Rights come first: who may not use a route at all learns nothing of what there is. Then what is not the caller's to
    see is not there.
    """
    if access.objects is ObjectScope.EVERYBODYS:
        return Outcome.ALLOWED
    if caller is None or access.objects is ObjectScope.FUNCTIONS:
        return Outcome.UNKNOWN
    if caller.organization_role is None:
        return Outcome.FORBIDDEN if caller.signed_in else Outcome.UNKNOWN
    if access.objects is ObjectScope.MODELS and not caller.in_project:
        return Outcome.NO_PROJECT if caller.signed_in else Outcome.UNKNOWN
    if caller.signed_in and "{organization_id}" in access.path and whose not in _accessible(access, caller):
        return Outcome.HIDDEN
    if access.scope not in caller.scopes or not _is_administrator(access.objects, caller):
        return Outcome.FORBIDDEN
    if access.objects is ObjectScope.INSTALLATION:
        return Outcome.ALLOWED
    if access.objects is ObjectScope.PROJECT and not caller.in_project:
        return Outcome.NO_PROJECT
    return Outcome.ALLOWED if whose in _accessible(access, caller) else Outcome.HIDDEN


def _accessible(access: RouteAccess, caller: Subject) -> set[Ownership]:
    """Whose objects a caller who may use the route reaches by it."""
    within, project = {Ownership.OWN, Ownership.COLLEAGUE, Ownership.SIBLING}, {Ownership.OWN, Ownership.COLLEAGUE}
    if access.objects is ObjectScope.ORGANIZATION:
        return within
    if access.objects is ObjectScope.SELF:
        return {Ownership.OWN}
    if access.objects not in (ObjectScope.MEMBER, ObjectScope.KEYS):
        return project
    if caller.is_owner or access.names_organization:
        return within
    if access.names_object and not caller.works_in_project:
        return set()
    manages = "api.organizations.projects.users.write" in caller.scopes
    return project if access.objects is ObjectScope.MEMBER or manages else {Ownership.OWN}


def _is_administrator(objects: ObjectScope, caller: Subject) -> bool:
    if objects is ObjectScope.INSTALLATION:
        return caller.is_owner and caller.in_default_organization
    return objects is not ObjectScope.ORGANIZATION or caller.is_owner


def declared_routes(checkout: Path) -> list[RouteAccess]:
    """Every route of every function, in the order of their paths. Undeclared for one that says nothing of itself."""
    context = Context(_SETTINGS)
    found: list[RouteAccess] = []
    for folder in sorted(path.parent for path in (checkout / "functions").glob("*/func.yaml")):
        built = {(method, _without_parameter_names(path)): rule for method, path, rule in _route_rules(folder, context)}
        for method, path in _routes(folder):
            if path not in _PROBES:
                found.append(RouteAccess(folder.name, method, path, *built[method, _without_parameter_names(path)]))
    return sorted(found, key=lambda access: (access.path, access.method))


Rule = tuple[str | None, ObjectScope]
_RULES_BY_FUNCTION: dict[str, Rule] = {
    "auth": (None, ObjectScope.EVERYBODYS),
    "invitations": (None, ObjectScope.EVERYBODYS),
    "health": (None, ObjectScope.EVERYBODYS),
    "internal_gateway": (None, ObjectScope.FUNCTIONS),
}


def _route_rules(folder: Path, context: Context) -> Iterator[tuple[str, str, Rule]]:
    application = load(folder)
    application.use_context(context)
    made: Any = application.prepare().application
    if hasattr(made, "route"):  # the token path
        yield "POST", made.route.path, (made.route.scope, ObjectScope.MODELS)
        return
    for route in made.routes:
        rule = _RULES_BY_FUNCTION.get(folder.name) or _rule(
            dependency.call for dependency in route.dependant.dependencies
        )
        if rule is None and route.path not in _PROBES:
            raise UndeclaredRouteError(
                f"functions/{folder.name}: {route.path} says no scope. Give its handler a caller: require_scope(scope) or "
                "require_org_admin(scope)."
            )
        for method in route.methods:
            yield method, route.path, rule or (None, ObjectScope.EVERYBODYS)


def _rule(dependencies: Iterable[Any]) -> Rule | None:
    for dependency in dependencies:
        if hasattr(dependency, "objects"):
            return dependency.scope, ObjectScope(dependency.objects)
    return None


def _routes(folder: Path) -> list[tuple[str, str]]:
    annotations = yaml.safe_load((folder / "func.yaml").read_text())["deploy"]["annotations"]
    lines = (line.split() for line in annotations["llmariner.ai/routes"].splitlines() if line.strip())
    return [(method, path) for method, path in lines]


def _without_parameter_names(path: str) -> str:
    """A path without the names of its place-holders, which are the function's own affair."""
    parts = (part for piece in path.split("{") for part in piece.split("}"))
    return "".join(
        ("{:path}" if part.endswith(":path") else "{}") if index % 2 else part for index, part in enumerate(parts)
    )
