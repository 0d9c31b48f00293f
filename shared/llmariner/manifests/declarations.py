"""What functions and consumers say of themselves, read and checked; Kubernetes is not mentioned here.

func.yaml is Knative's own file format (schema func_yaml-schema.json); what it has no field for stands in annotations
`llmariner.ai/*`. A consumer has only its Trigger, so all its settings are annotations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from llmariner.manifests.environment import Variable, variables

__all__ = ["Consumer", "DeclarationError", "Function", "Route", "Scale", "Workload", "read"]

PREFIX = "llmariner.ai/"
COMMON = frozenset({"timeout-seconds", "extras", "kubernetes"})
"""Annotations that functions and consumers have in common."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# A Knative Service names its revisions <name>-00001, and both are DNS-1035 labels of at most 63 characters.
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAME_LIMIT = 63 - len("-00001")

# What a function may be let do on the Kubernetes API: wake models and put them to sleep.
RIGHTS = frozenset({"serving"})

# A function is one Python thread that waits most of the time. What is not said of a resource is said here.
REQUESTS = {"cpu": "50m", "memory": "128Mi"}
LIMITS = {"cpu": "1", "memory": "256Mi"}


class DeclarationError(ValueError):
    """A declaration is wrong; the message names the file and what to change."""


@dataclass(frozen=True)
class Route:
    """One line of `llmariner.ai/routes`."""

    method: str
    path: str


@dataclass(frozen=True)
class Scale:
    """How many copies run; what is None is Knative's default."""

    min: int = 0
    max: int = 10
    metric: str | None = None
    target: float | None = None
    utilization: float | None = None
    burst: int | None = None
    """Requests more that the copies must be able to take before the activator leaves the path; 0: it leaves at once."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What runs, be it woken by a request or by an event."""

    name: str
    source: str
    """The declaring file, relative to the checkout."""
    timeout_seconds: int
    """Bound of one whole request, its stream included."""
    extras: tuple[str, ...]
    """Extras of our distribution that the image must hold."""
    scale: Scale = Scale()
    concurrency: int = 100
    """Requests that one copy takes at a time."""
    rights: str | None = None
    """One of RIGHTS, in the namespace of the models; None: none anywhere."""
    requests: Mapping[str, str] = field(default_factory=lambda: REQUESTS)
    limits: Mapping[str, str] = field(default_factory=lambda: LIMITS)
    variables: tuple[Variable, ...] = ()
    readiness: str = "/health/ready"
    liveness: str = "/health/live"

    @property
    def folder(self) -> str:
        """The folder of main.py, relative to the checkout."""
        return self.source.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Function(Workload):
    """A function that answers requests."""

    public: bool
    routes: tuple[Route, ...]


@dataclass(frozen=True, kw_only=True)
class Consumer(Workload):
    """A function that a Trigger feeds with events."""

    trigger: Mapping[str, Any]
    """The Trigger as declared, without our annotations."""
    every_minutes: int
    """How often a consumer of the clock's event is woken."""


W = TypeVar("W", bound=Workload)


def read(checkout: Path) -> tuple[list[Function], list[Consumer]]:
    """All declarations of a checkout, by name. DeclarationError where one is wrong or two share a name."""
    declared = (*checkout.glob("functions/*/func.yaml"), *checkout.glob("eventing/*/func.yaml"))
    functions = [_checked(_function, path, checkout) for path in sorted(declared, key=lambda path: path.parent.name)]
    consumers = [_checked(_consumer, path, checkout) for path in sorted(checkout.glob("eventing/*/trigger.yaml"))]
    taken: dict[str, str] = {}
    for workload in (*functions, *consumers):
        if (twin := taken.setdefault(workload.name, workload.source)) != workload.source:
            raise DeclarationError(f"{workload.source}: the name {workload.name} is taken by {twin}")
    return functions, consumers


def _checked(read_one: Callable[[Any, str], W], path: Path, checkout: Path) -> W:
    """`read_one` on a file; whatever is wrong in it is told with the file's name."""
    source = path.relative_to(checkout).as_posix()
    try:
        workload = read_one(yaml.safe_load(path.read_text()), source)
    except KeyError as error:
        raise DeclarationError(f"{source}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise DeclarationError(f"{source}: {error}") from error
    wanted = path.parent.name.replace("_", "-")
    if workload.name != wanted:
        raise DeclarationError(f"{source}: the name must be {wanted}, as its folder, not {workload.name}")
    if not NAME.fullmatch(workload.name) or len(workload.name) > NAME_LIMIT:
        raise DeclarationError(f"{source}: {workload.name} is no DNS-1035 label of {NAME_LIMIT} characters")
    return workload


def _function(body: Any, source: str) -> Function:
    deploy, options = body["deploy"], body["deploy"].get("options", {})
    said = _annotations(deploy["annotations"], {"routes", "visibility", "burst-capacity", *COMMON})
    visibility = said.get("visibility", "public")
    if visibility not in ("public", "cluster-local"):
        raise ValueError(f"llmariner.ai/visibility must be public or cluster-local, not {visibility!r}")
    resources, scale = options.get("resources", {}), options.get("scale", {})
    limits = dict(resources.get("limits", {}))
    chosen: dict[str, Any] = {"concurrency": limits.pop("concurrency", None)}
    health = deploy.get("healthEndpoints", {})
    chosen |= {"readiness": health.get("readiness"), "liveness": health.get("liveness")}
    return Function(
        name=body["name"],
        source=source,
        public=visibility == "public",
        routes=tuple(_route(line) for line in said["routes"].splitlines() if line.strip()),
        timeout_seconds=int(said.get("timeout-seconds", "60")),
        extras=_extras(said),
        rights=_rights(said),
        scale=Scale(**scale, burst=int(said["burst-capacity"]) if "burst-capacity" in said else None),
        requests={**REQUESTS, **resources.get("requests", {})},
        limits={**LIMITS, **limits},
        variables=variables(body.get("run", {}).get("envs", [])),
        **{key: value for key, value in chosen.items() if value},
    )


def _consumer(body: Any, source: str) -> Consumer:
    metadata = body["metadata"]
    said = _annotations(metadata.get("annotations", {}), {"max-scale", "concurrency", "every-minutes", *COMMON})
    subscriber = body["spec"]["subscriber"]["ref"]
    if (subscriber["kind"], subscriber["name"]) != ("Service", metadata["name"]):
        raise ValueError(f"spec.subscriber.ref must be the Knative Service {metadata['name']}")
    others = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(PREFIX)}
    bare = {key: value for key, value in metadata.items() if key != "annotations"}
    return Consumer(
        name=metadata["name"],
        source=source,
        trigger={**body, "metadata": {**bare, **({"annotations": others} if others else {})}},
        every_minutes=int(said.get("every-minutes", "5")),
        timeout_seconds=int(said.get("timeout-seconds", "60")),
        extras=_extras(said, "database,functions"),
        rights=_rights(said),
        scale=Scale(max=int(said.get("max-scale", "3"))),
        concurrency=int(said.get("concurrency", "10")),
    )


def _annotations(found: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """Ours, without their prefix. One that nobody reads is a spelling mistake, and an error."""
    ours = {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}
    if unknown := ours.keys() - known:
        raise ValueError(f"llmariner.ai/{min(unknown)} is none of {', '.join(sorted(known))}")
    return ours


def _extras(said: Mapping[str, str], default: str = "") -> tuple[str, ...]:
    return tuple(sorted(extra.strip() for extra in said.get("extras", default).split(",") if extra.strip()))


def _rights(said: Mapping[str, str]) -> str | None:
    rights = said.get("kubernetes")
    if rights is not None and rights not in RIGHTS:
        raise ValueError(f"llmariner.ai/kubernetes must be one of {', '.join(sorted(RIGHTS))}, not {rights!r}")
    return rights


def _route(line: str) -> Route:
    method, _, path = line.strip().partition(" ")
    if method not in METHODS or not path.strip().startswith("/"):
        raise ValueError(f"llmariner.ai/routes: {line!r} is no METHOD /path")
    return Route(method, path.strip())
