"""Where a look goes: which cluster, which installation on it, and what that installation was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmariner.diagnostics.api_resources import PROJECTS, Project
from llmariner.diagnostics.snapshot import Reading
from llmariner.settings import KServeSettings

__all__ = ["APPLY", "Place", "patch"]

APPLY = "kubectl apply -k manifests/overlays/OVERLAY"


@dataclass(frozen=True)
class Place:
    """What every check is given. `installed`: the settings of an installation stand in the namespace."""

    reading: Reading
    namespace: str
    installed: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    models: KServeSettings = field(default_factory=KServeSettings)

    def has(self, name: str) -> bool:
        """Whether all kinds of a project are served here."""
        return not self.lacking(next(each for each in PROJECTS if each.name == name))

    def lacking(self, project: Project) -> dict[str, list[str]]:
        """Kinds of the project that aren't served here, by version."""
        found = {version: self.reading.kinds(version) for version in project.kinds}
        absent = {v: [kind for kind in kinds if kind not in found[v]] for v, kinds in project.kinds.items()}
        return {version: kinds for version, kinds in absent.items() if kinds}


def patch(namespace: str, config_map: str, key: str, value: str) -> str:
    """The command that sets one key of a ConfigMap."""
    return (
        f"kubectl -n {namespace} patch configmap {config_map} --type merge "
        f"""-p '{{"data":{{"{key}":"{value}"}}}}'"""
    )
