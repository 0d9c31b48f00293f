"""The kinds of the API in the test process: every CRD of a folder, and the core kinds that the platform uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Kind", "core_kinds", "custom_kinds"]

# Schemas are 99 % of a CRD and are read later, when a kind is used.
SCHEMA = re.compile(r"^( +)schema:\n(?:\1 +.*\n| *\n)*", re.MULTILINE)

# apiVersion, kind, plural, short names; `cluster`: in no namespace, `status`: status apart, `grows`: has a generation.
CORE = """
v1                            Namespace            namespaces            ns      cluster status
v1                            Node                 nodes                 no      cluster status
v1                            Pod                  pods                  po      status grows
v1                            Event                events                ev
v1                            ConfigMap            configmaps            cm
v1                            Secret               secrets               -
v1                            Service              services              svc     status
v1                            ServiceAccount       serviceaccounts       sa
v1                            PersistentVolumeClaim persistentvolumeclaims pvc   status
v1                            ResourceQuota        resourcequotas        quota   status
apps/v1                       Deployment           deployments           deploy  status grows scale
apps/v1                       ReplicaSet           replicasets           rs      status grows scale
apps/v1                       StatefulSet          statefulsets          sts     status grows scale
batch/v1                      Job                  jobs                  -       status grows
coordination.k8s.io/v1        Lease                leases                -
autoscaling/v2                HorizontalPodAutoscaler horizontalpodautoscalers hpa status
networking.k8s.io/v1          NetworkPolicy        networkpolicies       netpol  grows
policy/v1                     PodDisruptionBudget  poddisruptionbudgets  pdb     status grows
storage.k8s.io/v1             StorageClass         storageclasses        sc      cluster
rbac.authorization.k8s.io/v1  Role                 roles                 -
rbac.authorization.k8s.io/v1  RoleBinding          rolebindings          -
rbac.authorization.k8s.io/v1  ClusterRole          clusterroles          -       cluster
rbac.authorization.k8s.io/v1  ClusterRoleBinding   clusterrolebindings   -       cluster
"""


@dataclass(frozen=True)
class Kind:
    """One kind at one version. `scale`: dotted paths of wanted and present replicas, where it has that subresource."""

    group: str
    version: str
    name: str
    plural: str
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    grows: bool = True
    scale: tuple[str, str] | None = None
    custom: bool = True
    selectable: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        """As in an object."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As in messages: `inferenceservices.serving.kserve.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def store(self) -> tuple[str, str]:
        """Which objects these are: the same ones at every version."""
        return self.group, self.plural

    def discovered(self) -> Iterator[dict[str, Any]]:
        """Its entries of an APIResourceList."""
        shown = {"kind": self.name, "namespaced": self.namespaced, "singularName": ""}
        verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        named = {"shortNames": list(self.short), "categories": list(self.categories)}
        yield {
            **shown,
            "name": self.plural,
            "singularName": self.name.lower(),
            "verbs": verbs,
            **{key: value for key, value in named.items() if value},
        }
        if self.status:
            yield {**shown, "name": f"{self.plural}/status", "verbs": ["get", "patch", "update"]}
        if self.scale:
            scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
            yield {**shown, "name": f"{self.plural}/scale", "verbs": ["get", "patch", "update"], **scale}


def core_kinds() -> Iterator[Kind]:
    """Of the table above."""
    for line in CORE.strip().splitlines():
        api_version, name, plural, short, *marks = line.split()
        group, _, version = api_version.rpartition("/")
        yield Kind(
            group,
            version,
            name,
            plural,
            short=() if short == "-" else (short,),
            namespaced="cluster" not in marks,
            status="status" in marks,
            grows="grows" in marks,
            scale=("spec.replicas", "status.replicas") if "scale" in marks else None,
            custom=False,
        )


def custom_kinds(root: Path) -> Iterator[Kind]:
    """Every served version of every CRD in the folder."""
    for path in sorted(root.glob("*/*.yaml")):
        for crd in yaml.load_all(SCHEMA.sub("", path.read_text()), Loader=yaml.CSafeLoader):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                yield from (_custom(crd["spec"], each) for each in crd["spec"]["versions"] if each["served"])


def _custom(spec: dict[str, Any], version: dict[str, Any]) -> Kind:
    subresources = version.get("subresources") or {}
    scale = subresources.get("scale")
    return Kind(
        spec["group"],
        version["name"],
        spec["names"]["kind"],
        spec["names"]["plural"],
        short=tuple(spec["names"].get("shortNames", ())),
        categories=tuple(spec["names"].get("categories", ())),
        namespaced=spec["scope"] == "Namespaced",
        status="status" in subresources,
        scale=(scale["specReplicasPath"][1:], scale["statusReplicasPath"][1:]) if scale else None,
        selectable=tuple(each["jsonPath"][1:] for each in version.get("selectableFields", ())),
    )
