"""The images that are built, derived from the declarations of functions and consumers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from llmariner import __version__
from llmariner.manifests.declarations import Workload, read_declarations
from llmariner.manifests.services import workload_image

__all__ = [
    "AGENT",
    "CHECKOUT",
    "ENGINE",
    "ENGINE_LOCAL",
    "NOTEBOOK",
    "TOOLS",
    "ImageSpec",
    "image_specs",
    "sources_digest",
]

CHECKOUT = Path(__file__).parents[1]

AGENT = f"llmariner/agent:{__version__}"
TOOLS = f"llmariner/tools:{__version__}"
ENGINE = f"llmariner/engine:{__version__}"
NOTEBOOK = f"llmariner/notebook:{__version__}"
ENGINE_LOCAL = f"llmariner/vllm-cpu-local:{__version__}"

_SOURCES = ("Dockerfile", "pyproject.toml", "locks", "images", "shared", "functions", "eventing")

# The CLI and database migrations, for administrators and Jobs inside a cluster.
_TOOLS_EXTRAS = ("cli", "database", "identity")

# The agent of a worker cluster: its API server's client, and the connections to the control plane.
_AGENT_EXTRAS = ("cluster", "tunnel")


@dataclass(frozen=True)
class ImageSpec:
    """An image that the Dockerfile in the root builds."""

    name: str
    """The name in manifests, without a registry."""
    extras: tuple[str, ...]
    folders: tuple[str, ...] = ()
    """Folders of the functions and consumers that it contains."""

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments of the Dockerfile."""
        return {"FUNCTION": self.folders[0]} if self.folders else {"EXTRAS": ",".join(self.extras)}


def image_specs(checkout: Path = CHECKOUT) -> list[ImageSpec]:
    """One image per set of extras, then the agent of worker clusters and the tools. Raises DeclarationError."""
    functions, consumers = read_declarations(checkout)
    workloads: list[Workload] = [*functions, *consumers]
    groups: dict[str, list[Workload]] = {}
    for each in workloads:
        groups.setdefault(workload_image(each), []).append(each)
    function_images = [
        ImageSpec(name, group[0].extras, tuple(each.folder for each in group)) for name, group in groups.items()
    ]
    others = [ImageSpec(AGENT, _AGENT_EXTRAS), ImageSpec(TOOLS, _TOOLS_EXTRAS)]
    return [*sorted(function_images, key=lambda each: each.name), *others]


def sources_digest(checkout: Path = CHECKOUT) -> str:
    """SHA-256 of the names and contents of all files that images are built from."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        root = checkout / source
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                digest.update(f"{path.relative_to(checkout)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
