"""Maps the generated objects to files below `manifests/`; writes the files, or compares them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmariner.manifests import installation, jobs
from llmariner.manifests.declarations import Consumer, Function, Workload, read_declarations
from llmariner.manifests.event_identity import event_identity, event_policy
from llmariner.manifests.events import DEAD_LETTERS, broker, kubernetes_changes, ping_source, trigger, workload_changes
from llmariner.manifests.installation import Object
from llmariner.manifests.milvus import milvus, milvus_policy
from llmariner.manifests.model_copies import model_copies_settings, storage_container
from llmariner.manifests.object_store import object_store, object_store_policy, object_store_settings
from llmariner.manifests.path_matches import path_matches
from llmariner.manifests.prerequisites import config_defaults, config_features
from llmariner.manifests.rbac import binding, roles, standby_roles
from llmariner.manifests.routes import FALLBACK, http_route
from llmariner.manifests.services import knative_service, service_account, workload_image

__all__ = ["Tree", "generate_files", "stale_files", "write_files"]

Tree = dict[str, str]
"""Path relative to `manifests/` → content."""

# Folders whose files are all generated: any other file in them is stale.
GENERATED_FOLDERS = (
    "base",
    "components/event-identity",
    "components/kueue/workload-changes",
    "components/local-images",
    "components/migrations",
    "components/model-copies",
    "components/object-store",
    "components/secrets",
    "prerequisites",
)


# Where images are beside the fields that kustomize knows.
_IMAGE_FIELDS: Object = {"images": [{"kind": "ClusterStorageContainer", "path": "spec/container/image"}]}


class _Dumper(yaml.SafeDumper):
    """Writes shared values in full instead of YAML anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def generate_files(checkout: Path) -> Tree:
    """Every generated file. DeclarationError where a declaration is invalid."""
    functions, consumers = read_declarations(checkout)
    workloads: list[Workload] = [*functions, *consumers]
    dead_lettered = any(each.name == DEAD_LETTERS for each in functions)
    public = [function for function in functions if function.public]
    matches = path_matches(public, fallback=next((each.name for each in public if each.name == FALLBACK), None))
    files = {
        "base/00-namespaces.yaml": _file("", *installation.namespaces()),
        "base/05-priority.yaml": _file("", *installation.priority_classes()),
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
        "components/kueue/workload-changes/kustomization.yaml": _file("", _component("source.yaml")),
        "components/kueue/workload-changes/source.yaml": _file("", *workload_changes()),
        "components/milvus/kustomization.yaml": _file("", milvus(workloads)),
        "components/milvus/network-policy/kustomization.yaml": _file("", _component("policy.yaml")),
        "components/milvus/network-policy/policy.yaml": _file("", milvus_policy(workloads)),
        "components/local-images/kustomization.yaml": _file("", _local_images(workloads)),
        "components/local-images/image-fields.yaml": _file("", _IMAGE_FIELDS),
        "components/object-store/kustomization.yaml": _file("", object_store(workloads)),
        "components/object-store/settings.yaml": _file("", object_store_settings()),
        "components/object-store/network-policy/kustomization.yaml": _file("", _component("policy.yaml")),
        "components/object-store/network-policy/policy.yaml": _file("", object_store_policy(workloads)),
    }
    copies = {**_component("storage-container.yaml"), "patches": [{"path": "settings.yaml"}]}
    files["components/model-copies/kustomization.yaml"] = _file("", copies)
    files["components/model-copies/settings.yaml"] = _file("", model_copies_settings())
    files["components/model-copies/storage-container.yaml"] = _file("", storage_container())
    for name, objects in (("secrets", jobs.secrets()), ("migrations", jobs.migrations())):
        files[f"components/{name}/{name}.yaml"] = _file("", *objects)
        files[f"components/{name}/kustomization.yaml"] = _file("", _component(f"{name}.yaml"))
    # The rest of that component is written by hand.
    files["components/standby-engine/token.yaml"] = _file("", *jobs.standby_token())
    files["components/standby-engine/rights.yaml"] = _file("", *standby_roles(workloads))
    for function in functions:
        routed = [http_route(function, matches[function.name])] if function.public else []
        files[f"base/50-functions/{function.name}.yaml"] = _workload_file(function, *routed)
    for consumer in consumers:
        trigger_objects = (trigger(consumer, dead_lettered=dead_lettered), *ping_source(consumer))
        files[f"base/60-eventing/{consumer.name}.yaml"] = _workload_file(consumer, *trigger_objects)
    files["base/kustomization.yaml"] = _file("", _kustomization(files))
    return files


def stale_files(checkout: Path) -> Iterator[str]:
    """The differences from the declarations: a message per file, with its path relative to the checkout."""
    manifests, expected = checkout / "manifests", generate_files(checkout)
    for name, content in expected.items():
        path = manifests / name
        if not path.is_file():
            yield f"manifests/{name} is missing"
        elif path.read_text() != content:
            yield f"manifests/{name} does not say what its declaration says"
    for path in _existing_files(manifests):
        if (name := path.relative_to(manifests).as_posix()) not in expected:
            yield f"manifests/{name} has no declaration any more"


def write_files(checkout: Path) -> Iterator[str]:
    """Write the generated files and delete stale ones; yields each path that changed."""
    manifests, expected = checkout / "manifests", generate_files(checkout)
    for name, content in expected.items():
        path = manifests / name
        if not path.is_file() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            yield f"manifests/{name}"
    for path in _existing_files(manifests):
        if path.relative_to(manifests).as_posix() not in expected:
            path.unlink()
            yield path.relative_to(checkout).as_posix()


def _existing_files(manifests: Path) -> list[Path]:
    return [path for folder in GENERATED_FOLDERS for path in sorted((manifests / folder).rglob("*")) if path.is_file()]


def _workload_file(workload: Function | Consumer, *others: Object) -> str:
    return _file(workload.source, service_account(workload), *binding(workload), knative_service(workload), *others)


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
    """Image names under dev.local, which Knative does not resolve in a registry, for images loaded onto nodes."""
    used = {*map(workload_image, workloads), jobs.SECRETS_IMAGE, jobs.MIGRATIONS_IMAGE}
    names = sorted(each.rpartition(":")[0] for each in used)
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "configurations": ["image-fields.yaml"],
        "images": [{"name": name, "newName": f"dev.local/{name}"} for name in names],
    }
