"""The authorization matrix: what each route requires, read from the functions, and the outcome for a caller of each role."""

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
# Enough settings for a context to build every route; no connection is opened.
_SETTINGS = {
    "LLMARINER_DATABASE_URL": "sqlite://",
    "LLMARINER_PEPPER": "0" * 32,
    "LLMARINER_SERVICE_SECRET": "0" * 32,
    "LLMARINER_SERVING": "static",
    "LLMARINER_SERVING_STATIC": "{}",
}


class UndeclaredRouteError(Exception):
    """A route declares neither a scope nor that it is public."""


class ObjectScope(StrEnum):
    """Which objects a route gives access to."""

    PUBLIC = "public"
    """Public; no authentication."""
    FUNCTIONS = "functions"
    """Callable by other functions only, with a signed token."""
    SELF = "self"
    """The caller's own objects, in any project."""
    PROJECT = "project"
    """Objects of the caller's project, and those that all projects share."""
    MODELS = "models"
    """Models of the caller's project and those that all projects share; admin keys are unknown (401)."""
    MEMBER = "member"
    """Organizations and projects that the caller is a member of; for an owner all of its organization."""
    KEYS = "keys"
    """The caller's own keys; those of the project for callers that manage its users; all for an owner."""
    CLUSTERS = "clusters"
    """The clusters of the caller's organization, and the one of the control plane, which all organizations share."""
    ORGANIZATION = "organization"
    """All objects of the caller's organization, for its administrators."""
    INSTALLATION = "installation"
    """All objects, for owners of the default organization, which operates the installation."""


class Ownership(StrEnum):
    """The owner of an object, relative to the caller."""

    OWN = "own"
    SAME_PROJECT = "same project"
    """Another user's, in the caller's project."""
    SIBLING_PROJECT = "sibling project"
    OTHER_ORGANIZATION = "other organization"


class Outcome(StrEnum):
    """The outcome of a request."""

    ALLOWED = "allowed"
    NO_PROJECT = "400"
    UNKNOWN = "401"
    FORBIDDEN = "403"
    HIDDEN = "404"


@dataclass(frozen=True)
class RouteAccess:
    """What a route requires. `scope` None: no scope is required."""

    function: str
    method: str
    path: str
    scope: str | None
    objects: ObjectScope

    @property
    def names_organization(self) -> bool:
        """Whether its path names an organization and nothing below it; such routes are open to all its members."""
        return "{organization_id}" in self.path and "{project_id}" not in self.path

    @property
    def names_object(self) -> bool:
        """Whether its path names a project or one object of a project."""
        return not self.names_organization and "{" in self.path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Subject:
    """A caller in the matrix. `key_scopes`: the scopes of a key that carries fewer than its user holds.

    `signed_in`: a person, whose permissions are those of the organization or project that the path names.
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
        """Whether it has access to the project that the request is about."""
        return self.is_owner or (self.in_project and self.project_role is not None)

    @property
    def scopes(self) -> frozenset[str]:
        """The effective scopes: an organization's owner owns the project it works in."""
        project_role = self.project_role or ("owner" if self.is_owner and self.in_project else None)
        held = ORGANIZATION_ROLES.get(self.organization_role or "", frozenset())
        if self.is_owner and self.in_default_organization:
            held |= INSTALLATION_SCOPES
        held = with_implied(held | PROJECT_ROLES.get(project_role or "", frozenset()))
        return held if self.key_scopes is None else held & with_implied(self.key_scopes)


def decide(access: RouteAccess, caller: Subject | None, whose: Ownership) -> Outcome:
    """The outcome for a caller (None: unauthenticated) that requests an object of that ownership.

    Scopes are checked first, so a caller without the scope learns nothing of objects; then objects that it may not see are
    reported as missing.
    """
    if access.objects is ObjectScope.PUBLIC:
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
    """The ownerships of objects that a caller with the scope can access by the route."""
    organization, project = (
        {Ownership.OWN, Ownership.SAME_PROJECT, Ownership.SIBLING_PROJECT},
        {Ownership.OWN, Ownership.SAME_PROJECT},
    )
    if access.objects in (ObjectScope.ORGANIZATION, ObjectScope.CLUSTERS):
        return organization
    if access.objects is ObjectScope.SELF:
        return {Ownership.OWN}
    if access.objects not in (ObjectScope.MEMBER, ObjectScope.KEYS):
        return project
    if caller.is_owner or access.names_organization:
        return organization
    if access.names_object and not caller.works_in_project:
        return set()
    manages = "api.organizations.projects.users.write" in caller.scopes
    return project if access.objects is ObjectScope.MEMBER or manages else {Ownership.OWN}


def _is_administrator(objects: ObjectScope, caller: Subject) -> bool:
    if objects is ObjectScope.INSTALLATION:
        return caller.is_owner and caller.in_default_organization
    return objects is not ObjectScope.ORGANIZATION or caller.is_owner


def declared_routes(checkout: Path) -> list[RouteAccess]:
    """Every route of every function, ordered by path. Raises UndeclaredRouteError."""
    context = Context(_SETTINGS)
    routes: list[RouteAccess] = []
    for folder in sorted(path.parent for path in (checkout / "functions").glob("*/func.yaml")):
        rules = {(method, _without_parameter_names(path)): rule for method, path, rule in _route_rules(folder, context)}
        for method, path in _routes(folder):
            if path not in _PROBES:
                routes.append(RouteAccess(folder.name, method, path, *rules[method, _without_parameter_names(path)]))
    return sorted(routes, key=lambda access: (access.path, access.method))


Rule = tuple[str | None, ObjectScope]
_RULES_BY_FUNCTION: dict[str, Rule] = {
    "auth": (None, ObjectScope.PUBLIC),
    "invitations": (None, ObjectScope.PUBLIC),
    "health": (None, ObjectScope.PUBLIC),
    "internal_gateway": (None, ObjectScope.FUNCTIONS),
    "fine_tuning_adapters": (None, ObjectScope.FUNCTIONS),
    "fine_tuning_workers": (None, ObjectScope.FUNCTIONS),
    "batch_jobs_results": (None, ObjectScope.FUNCTIONS),
    "clusters_agent": (None, ObjectScope.FUNCTIONS),
}


def _route_rules(folder: Path, context: Context) -> Iterator[tuple[str, str, Rule]]:
    application = load(folder)
    application.use_context(context)
    app: Any = application.prepare().application
    if hasattr(app, "route"):  # a route of the gateway
        yield "POST", app.route.path, (app.route.scope, ObjectScope.MODELS)
        return
    for route in app.routes:
        rule = _RULES_BY_FUNCTION.get(folder.name) or _rule(
            dependency.call for dependency in route.dependant.dependencies
        )
        if rule is None and route.path not in _PROBES:
            raise UndeclaredRouteError(
                f"functions/{folder.name}: {route.path} says no scope. Give its handler a caller: require_scope(scope) or "
                "require_org_admin(scope)."
            )
        for method in route.methods:
            yield method, route.path, rule or (None, ObjectScope.PUBLIC)


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
    """A path without the names of its parameters, which the annotation need not repeat."""
    parts = (part for piece in path.split("{") for part in piece.split("}"))
    return "".join(
        ("{:path}" if part.endswith(":path") else "{}") if index % 2 else part for index, part in enumerate(parts)
    )
