"""Reads and validates the declarations of functions and consumers; it builds no Kubernetes objects.

func.yaml is Knative's file format (schema func_yaml-schema.json); settings without a field in it are annotations
`llmariner.ai/*`. A consumer has only its Trigger, so all its settings are annotations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from llmariner.manifests.environment import Variable, parse_variables

__all__ = ["Consumer", "DeclarationError", "Function", "Route", "Scale", "Workload", "read_declarations"]

ANNOTATION_PREFIX = "llmariner.ai/"
COMMON_ANNOTATIONS = frozenset({"timeout-seconds", "extras", "kubernetes"})
"""Annotations that both functions and consumers support."""
INTERNAL_PREFIX = "/internal/"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# A Knative Service names its revisions <name>-00001, and both are DNS-1035 labels of at most 63 characters.
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAME_MAX_LENGTH = 63 - len("-00001")

# Roles on the Kubernetes API that a function may declare: `serving` starts and stops models, `jobs` jobs; `jobs-reader`
# reads jobs and their output, `jobs-exec` starts programs in them; `quotas` changes queues; `allocations` reads what Kueue
# admitted.
KUBERNETES_ROLES = frozenset({"serving", "jobs", "jobs-reader", "jobs-status", "jobs-exec", "quotas", "allocations"})

# Defaults for one Python process that mostly waits for I/O.
DEFAULT_REQUESTS = {"cpu": "50m", "memory": "128Mi"}
DEFAULT_LIMITS = {"cpu": "1", "memory": "256Mi"}


class DeclarationError(ValueError):
    """A declaration is invalid; the message names the file and what to change."""


@dataclass(frozen=True)
class Route:
    """One line of `llmariner.ai/routes`."""

    method: str
    path: str


@dataclass(frozen=True)
class Scale:
    """Knative autoscaling; None leaves Knative's default."""

    min: int = 0
    max: int = 10
    metric: str | None = None
    target: float | None = None
    utilization: float | None = None
    burst: int | None = None
    """target-burst-capacity: spare requests below which the activator stays in the path; 0: it leaves immediately."""
    kept_seconds: int | None = None
    """How long the last pod stays without requests, when Knative would end it."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The settings that functions and consumers share."""

    name: str
    source: str
    """The declaring file, relative to the checkout."""
    timeout_seconds: int
    """Limit of a whole request in seconds, its stream included."""
    extras: tuple[str, ...]
    """Extras of the distribution that the image must contain."""
    scale: Scale = Scale()
    concurrency: int = 100
    """Concurrent requests per pod."""
    kubernetes_role: str | None = None
    """One of KUBERNETES_ROLES, each in one namespace; None: no access to the Kubernetes API."""
    requests: Mapping[str, str] = field(default_factory=lambda: DEFAULT_REQUESTS)
    limits: Mapping[str, str] = field(default_factory=lambda: DEFAULT_LIMITS)
    variables: tuple[Variable, ...] = ()
    readiness: str = "/health/ready"
    liveness: str = "/health/live"

    @property
    def folder(self) -> str:
        """The folder of main.py, relative to the checkout."""
        return self.source.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Function(Workload):
    """A function that serves HTTP routes."""

    public: bool
    routes: tuple[Route, ...]

    @property
    def public_routes(self) -> tuple[Route, ...]:
        """Those that the Gateway has: none below `/internal/`, which functions call each other by."""
        return tuple(each for each in self.routes if self.public and not each.path.startswith(INTERNAL_PREFIX))


@dataclass(frozen=True, kw_only=True)
class Consumer(Workload):
    """A function that a Trigger delivers events to."""

    trigger: Mapping[str, Any]
    """The declared Trigger, without the `llmariner.ai/*` annotations."""
    every_minutes: int
    """Minutes between the tick events of a consumer of the tick."""


W = TypeVar("W", bound=Workload)


def read_declarations(checkout: Path) -> tuple[list[Function], list[Consumer]]:
    """All declarations of a checkout, sorted by name. DeclarationError where one is invalid or two share a name."""
    declared = (*checkout.glob("functions/*/func.yaml"), *checkout.glob("eventing/*/func.yaml"))
    functions = [
        _parse_file(_parse_function, path, checkout) for path in sorted(declared, key=lambda path: path.parent.name)
    ]
    consumers = [
        _parse_file(_parse_consumer, path, checkout) for path in sorted(checkout.glob("eventing/*/trigger.yaml"))
    ]
    sources: dict[str, str] = {}
    for workload in (*functions, *consumers):
        if (other := sources.setdefault(workload.name, workload.source)) != workload.source:
            raise DeclarationError(f"{workload.source}: the name {workload.name} is taken by {other}")
    return functions, consumers


def _parse_file(parse: Callable[[Any, str], W], path: Path, checkout: Path) -> W:
    """Apply `parse` to a file. DeclarationError, which names the file, where it is invalid."""
    source = path.relative_to(checkout).as_posix()
    try:
        workload = parse(yaml.safe_load(path.read_text()), source)
    except KeyError as error:
        raise DeclarationError(f"{source}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise DeclarationError(f"{source}: {error}") from error
    expected = path.parent.name.replace("_", "-")
    if workload.name != expected:
        raise DeclarationError(f"{source}: the name must be {expected}, as its folder, not {workload.name}")
    if not NAME.fullmatch(workload.name) or len(workload.name) > NAME_MAX_LENGTH:
        raise DeclarationError(f"{source}: {workload.name} is no DNS-1035 label of {NAME_MAX_LENGTH} characters")
    return workload


def _parse_function(body: Any, source: str) -> Function:
    deploy, options = body["deploy"], body["deploy"].get("options", {})
    annotations = _own_annotations(
        deploy["annotations"], {"routes", "visibility", "burst-capacity", "kept-seconds", *COMMON_ANNOTATIONS}
    )
    visibility = annotations.get("visibility", "public")
    if visibility not in ("public", "cluster-local"):
        raise ValueError(f"llmariner.ai/visibility must be public or cluster-local, not {visibility!r}")
    resources, scale = options.get("resources", {}), options.get("scale", {})
    limits = dict(resources.get("limits", {}))
    optional: dict[str, Any] = {"concurrency": limits.pop("concurrency", None)}
    health = deploy.get("healthEndpoints", {})
    optional |= {"readiness": health.get("readiness"), "liveness": health.get("liveness")}
    return Function(
        name=body["name"],
        source=source,
        public=visibility == "public",
        routes=tuple(_parse_route(line) for line in annotations["routes"].splitlines() if line.strip()),
        timeout_seconds=int(annotations.get("timeout-seconds", "60")),
        extras=_parse_extras(annotations),
        kubernetes_role=_parse_kubernetes_role(annotations),
        scale=Scale(
            **scale, burst=_number(annotations, "burst-capacity"), kept_seconds=_number(annotations, "kept-seconds")
        ),
        requests={**DEFAULT_REQUESTS, **resources.get("requests", {})},
        limits={**DEFAULT_LIMITS, **limits},
        variables=parse_variables(body.get("run", {}).get("envs", [])),
        **{key: value for key, value in optional.items() if value},
    )


def _parse_consumer(body: Any, source: str) -> Consumer:
    metadata = body["metadata"]
    annotations = _own_annotations(
        metadata.get("annotations", {}), {"max-scale", "concurrency", "every-minutes", "memory", *COMMON_ANNOTATIONS}
    )
    subscriber = body["spec"]["subscriber"]["ref"]
    if (subscriber["kind"], subscriber["name"]) != ("Service", metadata["name"]):
        raise ValueError(f"spec.subscriber.ref must be the Knative Service {metadata['name']}")
    foreign = {k: v for k, v in metadata.get("annotations", {}).items() if not k.startswith(ANNOTATION_PREFIX)}
    without_annotations = {key: value for key, value in metadata.items() if key != "annotations"}
    return Consumer(
        name=metadata["name"],
        source=source,
        trigger={**body, "metadata": {**without_annotations, **({"annotations": foreign} if foreign else {})}},
        every_minutes=int(annotations.get("every-minutes", "5")),
        timeout_seconds=int(annotations.get("timeout-seconds", "60")),
        extras=_parse_extras(annotations, "database,functions"),
        kubernetes_role=_parse_kubernetes_role(annotations),
        scale=Scale(max=int(annotations.get("max-scale", "3"))),
        concurrency=int(annotations.get("concurrency", "10")),
        limits={**DEFAULT_LIMITS, **({"memory": annotations["memory"]} if "memory" in annotations else {})},
    )


def _number(annotations: Mapping[str, str], name: str) -> int | None:
    return int(annotations[name]) if name in annotations else None


def _own_annotations(found: Mapping[str, str], supported: set[str]) -> dict[str, str]:
    """The `llmariner.ai/*` annotations without their prefix. ValueError for an unsupported one."""
    own = {
        key.removeprefix(ANNOTATION_PREFIX): value for key, value in found.items() if key.startswith(ANNOTATION_PREFIX)
    }
    if unknown := own.keys() - supported:
        raise ValueError(f"llmariner.ai/{min(unknown)} is none of {', '.join(sorted(supported))}")
    return own


def _parse_extras(annotations: Mapping[str, str], default: str = "") -> tuple[str, ...]:
    return tuple(sorted(extra.strip() for extra in annotations.get("extras", default).split(",") if extra.strip()))


def _parse_kubernetes_role(annotations: Mapping[str, str]) -> str | None:
    kubernetes_role = annotations.get("kubernetes")
    if kubernetes_role is not None and kubernetes_role not in KUBERNETES_ROLES:
        raise ValueError(
            f"llmariner.ai/kubernetes must be one of {', '.join(sorted(KUBERNETES_ROLES))}, not {kubernetes_role!r}"
        )
    return kubernetes_role


def _parse_route(line: str) -> Route:
    method, _, path = line.strip().partition(" ")
    if method not in METHODS or not path.strip().startswith("/"):
        raise ValueError(f"llmariner.ai/routes: {line!r} is no METHOD /path")
    return Route(method, path.strip())
