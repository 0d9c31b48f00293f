"""The target of the checks: a cluster, the installation on it, and that installation's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmariner.diagnostics.api_resources import DEPENDENCIES, Dependency
from llmariner.diagnostics.snapshot import ClusterSnapshot
from llmariner.settings import KServeSettings

__all__ = ["APPLY_COMMAND", "Target", "patch_command"]

APPLY_COMMAND = "kubectl apply -k manifests/overlays/OVERLAY"


@dataclass(frozen=True)
class Target:
    """The argument of every check. `installed`: the namespace holds the settings of an installation."""

    snapshot: ClusterSnapshot
    namespace: str
    installed: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    models: KServeSettings = field(default_factory=KServeSettings)

    def has_dependency(self, name: str) -> bool:
        """Whether the cluster serves all kinds of a dependency."""
        return not self.missing_kinds(next(each for each in DEPENDENCIES if each.name == name))

    def missing_kinds(self, dependency: Dependency) -> dict[str, list[str]]:
        """The kinds of the dependency that the cluster does not serve, by version."""
        found = {version: self.snapshot.served_kinds(version) for version in dependency.kinds}
        absent = {v: [kind for kind in kinds if kind not in found[v]] for v, kinds in dependency.kinds.items()}
        return {version: kinds for version, kinds in absent.items() if kinds}


def patch_command(namespace: str, config_map: str, key: str, value: str) -> str:
    """The kubectl command that sets one key of a ConfigMap."""
    return (
        f"kubectl -n {namespace} patch configmap {config_map} --type merge "
        f"""-p '{{"data":{{"{key}":"{value}"}}}}'"""
    )
