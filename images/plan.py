"""Which images there are, and what each must not grow beyond."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from llmariner import __version__
from llmariner.manifests.declarations import Workload, read_declarations
from llmariner.manifests.services import workload_image

__all__ = ["CHECKOUT", "ENGINE", "ENGINE_LOCAL", "TOOLS", "ImageSpec", "image_specs", "sources_digest"]

CHECKOUT = Path(__file__).parents[1]

TOOLS = f"llmariner/tools:{__version__}"
ENGINE = f"llmariner/engine:{__version__}"
ENGINE_LOCAL = f"llmariner/vllm-cpu-local:{__version__}"

_SOURCES = ("Dockerfile", "pyproject.toml", "locks", "images", "shared", "functions", "eventing")

# The command line and migrations of the database; for people and Jobs inside a cluster.
_TOOLS_EXTRAS = ("cli", "database", "identity")


@dataclass(frozen=True)
class ImageSpec:
    """An image that the root's Dockerfile makes."""

    name: str
    """As manifests say it, without a registry."""
    extras: tuple[str, ...]
    folders: tuple[str, ...] = ()
    """Functions and consumers that it serves."""

    @property
    def arguments(self) -> dict[str, str]:
        """Arguments of the Dockerfile."""
        return {"FUNCTION": self.folders[0]} if self.folders else {"EXTRAS": ",".join(self.extras)}


def image_specs(checkout: Path = CHECKOUT) -> list[ImageSpec]:
    """One image per set of extras, then the tools. DeclarationError where a declaration is wrong."""
    functions, consumers = read_declarations(checkout)
    workloads: list[Workload] = [*functions, *consumers]
    groups: dict[str, list[Workload]] = {}
    for each in workloads:
        groups.setdefault(workload_image(each), []).append(each)
    made = [ImageSpec(name, group[0].extras, tuple(each.folder for each in group)) for name, group in groups.items()]
    return [*sorted(made, key=lambda each: each.name), ImageSpec(TOOLS, _TOOLS_EXTRAS)]


def sources_digest(checkout: Path = CHECKOUT) -> str:
    """SHA-256 of the files that images are built from, with their names."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        place = checkout / source
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md":
                digest.update(f"{path.relative_to(checkout)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
