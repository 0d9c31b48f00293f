"""Which file below `manifests/` holds which objects, and whether the files still say what the declarations say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmariner.manifests import installation, jobs
from llmariner.manifests.declarations import Consumer, Function, Workload, read
from llmariner.manifests.event_identity import event_identity, event_policy
from llmariner.manifests.events import DEAD_LETTERS, broker, clock, kubernetes_changes, trigger
from llmariner.manifests.installation import Object
from llmariner.manifests.path_matches import matches
from llmariner.manifests.prerequisites import config_defaults, config_features
from llmariner.manifests.rbac import binding, roles, standby_rights
from llmariner.manifests.routes import FALLBACK, http_route
from llmariner.manifests.services import account, image, service

__all__ = ["Tree", "generate", "stale", "write"]

Tree = dict[str, str]
"""Path relative to `manifests/` → content."""

# Folders of which every file is generated, so that one that nobody generates any more is stale too.
OWNED = (
    "base",
    "components/event-identity",
    "components/local-images",
    "components/migrations",
    "components/secrets",
    "prerequisites",
)


class _Dumper(yaml.SafeDumper):
    """Writes what two objects share twice: an anchor would make one depend on the other's place in the file."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def generate(checkout: Path) -> Tree:
    """Every generated file. DeclarationError where a declaration is wrong."""
    functions, consumers = read(checkout)
    workloads: list[Workload] = [*functions, *consumers]
    buried = any(each.name == DEAD_LETTERS for each in functions)
    public = [function for function in functions if function.public]
    ways = matches(public, fallback=next((each.name for each in public if each.name == FALLBACK), None))
    files = {
        "base/00-namespaces.yaml": _file("", *installation.namespaces()),
        "base/05-priority.yaml": _file("", installation.foundation_priority()),
        "base/10-rights.yaml": _file("", *roles()),
        "base/20-settings.yaml": _file("", installation.settings()),
        "base/25-engine-plugins.yaml": _file("", installation.engine_plugins()),
        "base/30-gateway.yaml": _file("", installation.gateway(), installation.reference_grant()),
        "base/40-broker.yaml": _file("", broker()),
        "base/70-kubernetes-changes.yaml": _file("", *kubernetes_changes()),
        "prerequisites/config-defaults.yaml": _file("", config_defaults(workloads)),
        "prerequisites/config-features.yaml": _file("", config_features()),
        "components/event-identity/kustomization.yaml": _file("", event_identity(workloads)),
        "components/event-identity/event-policy.yaml": _file("", event_policy()),
        "components/local-images/kustomization.yaml": _file("", _local_images(workloads)),
    }
    for name, made in (("secrets", jobs.secrets()), ("migrations", jobs.migrations())):
        files[f"components/{name}/{name}.yaml"] = _file("", *made)
        files[f"components/{name}/kustomization.yaml"] = _file("", _component(f"{name}.yaml"))
    # The rest of that component is written by hand.
    files["components/standby-engine/token.yaml"] = _file("", *jobs.standby_token())
    files["components/standby-engine/rights.yaml"] = _file("", *standby_rights(workloads))
    for function in functions:
        routed = [http_route(function, ways[function.name])] if function.public else []
        files[f"base/50-functions/{function.name}.yaml"] = _workload_file(function, *routed)
    for consumer in consumers:
        woken = (trigger(consumer, buried=buried), *clock(consumer))
        files[f"base/60-eventing/{consumer.name}.yaml"] = _workload_file(consumer, *woken)
    files["base/kustomization.yaml"] = _file("", _kustomization(files))
    return files


def stale(checkout: Path) -> Iterator[str]:
    """What differs from the declarations: paths relative to the checkout, each with what is wrong."""
    manifests, wanted = checkout / "manifests", generate(checkout)
    for name, content in wanted.items():
        path = manifests / name
        if not path.is_file():
            yield f"manifests/{name} is missing"
        elif path.read_text() != content:
            yield f"manifests/{name} does not say what its declaration says"
    for path in _present(manifests):
        if (name := path.relative_to(manifests).as_posix()) not in wanted:
            yield f"manifests/{name} has no declaration any more"


def write(checkout: Path) -> Iterator[str]:
    """Make the files say what the declarations say; yields each path that changed."""
    manifests, wanted = checkout / "manifests", generate(checkout)
    for name, content in wanted.items():
        path = manifests / name
        if not path.is_file() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            yield f"manifests/{name}"
    for path in _present(manifests):
        if path.relative_to(manifests).as_posix() not in wanted:
            path.unlink()
            yield path.relative_to(checkout).as_posix()


def _present(manifests: Path) -> list[Path]:
    return [path for owned in OWNED for path in sorted((manifests / owned).rglob("*")) if path.is_file()]


def _workload_file(workload: Function | Consumer, *others: Object) -> str:
    return _file(workload.source, account(workload), *binding(workload), service(workload), *others)


def _file(source: str, *objects: Object) -> str:
    origin = f"from {source} by" if source else "by"
    note = f"# Written {origin} `make manifests`. Changes made here are lost.\n"
    return note + yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=110)


def _kustomization(files: Tree) -> Object:
    base = sorted(name.removeprefix("base/") for name in files if name.startswith("base/"))
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": base,
    }


def _component(*resources: str) -> Object:
    return {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "resources": list(resources)}


def _local_images(workloads: list[Workload]) -> Object:
    """Names under dev.local, which Knative takes as they are, for nodes onto which the images were loaded."""
    used = {*map(image, workloads), jobs.SECRETS_IMAGE, jobs.MIGRATIONS_IMAGE}
    names = sorted(each.rpartition(":")[0] for each in used)
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "images": [{"name": name, "newName": f"dev.local/{name}"} for name in names],
    }
