"""buildah with a store of its own, separate from the user's images."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Image", "PrerequisiteMissing", "Store"]

# Certificate authorities of this machine; a registry mirror may need an additional one.
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_SETTINGS = '[storage]\ndriver = "overlay"\ngraphroot = "{root}/images"\nrunroot = "{root}/run"\n'


class PrerequisiteMissing(Exception):
    """A tool or a privilege for building is missing; the message says how to get it."""


@dataclass(frozen=True)
class Image:
    """An image of the store; `layers` from the base up as (digest, unpacked bytes)."""

    name: str
    layers: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(size for _, size in self.layers)


class Store:
    """Images and build layers in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Create the folder. Raises PrerequisiteMissing if buildah cannot run."""
        if shutil.which("buildah") is None:
            raise PrerequisiteMissing("buildah is not installed: apt-get install buildah")
        if os.geteuid() != 0:
            raise PrerequisiteMissing("images are built by root, or in a user namespace: buildah unshare make images")
        for name in ("images", "run", "tmp", "wheels"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "storage.conf").write_text(_SETTINGS.format(root=self.folder))

    @property
    def built_from(self) -> str:
        """`plan.sources_digest` at the last complete build; empty if there was none."""
        mark = self.folder / "built-from"
        return mark.read_text() if mark.is_file() else ""

    @built_from.setter
    def built_from(self, digest: str) -> None:
        (self.folder / "built-from").write_text(digest)

    def run(self, *arguments: str) -> str:
        """Run a buildah command and return its output; errors go to stderr. Raises CalledProcessError."""
        command = ["buildah", *arguments]
        for tries_left in (2, 1, 0):
            done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
            # buildah 1.28 executes a sealed in-memory copy of itself, and sealing fails occasionally.
            if done.returncode == 0 or "sealing memfd" not in done.stderr or not tries_left:
                break
        sys.stderr.write(done.stderr)
        done.check_returncode()
        return done.stdout

    def build(
        self, name: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], *, uncached: bool = False
    ) -> None:
        """Build and tag an image; steps with unchanged input come from the cache, and no step does if `uncached`."""
        given = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        volumes = [f"--volume={self.folder / 'wheels'}:/root/.cache"]
        if _AUTHORITIES.is_file():
            volumes.append(f"--volume={_AUTHORITIES}:{_AUTHORITIES}:ro")
        self.run(
            *("bud", "--quiet", "--layers", "--isolation", "chroot", "--timestamp", "0", *volumes),
            *(["--no-cache"] if uncached else []),
            *("--tag", name, "--file", str(dockerfile), *given, str(context)),
        )

    def has(self, name: str) -> bool:
        """Whether the store has an image of this name."""
        return bool(self.run("images", "--quiet", "--filter", f"reference={name}").strip())

    def image(self, name: str) -> Image:
        """An image of the store. Raises CalledProcessError if there is none."""
        held = json.loads((self.folder / "images/overlay-images/images.json").read_text())
        layers = {
            each["id"]: each for each in json.loads((self.folder / "images/overlay-layers/layers.json").read_text())
        }
        layer = next(each["layer"] for each in held if name in each.get("names", ()))
        chain: list[tuple[str, int]] = []
        while layer:
            chain.append((layers[layer]["diff-digest"], layers[layer].get("diff-size", 0)))
            layer = layers[layer].get("parent", "")
        return Image(name, tuple(reversed(chain)))

    def archive(self, names: Iterable[str], target: Path) -> None:
        """Write several images as one OCI archive for `ctr images import`, each layer once."""
        layout = self.folder / "tmp" / f"{target.name}.layout"
        shutil.rmtree(layout, ignore_errors=True)
        for name in names:
            self.run("push", "--quiet", "--disable-compression", name, f"oci:{layout}:{name}")
        part = target.with_name(target.name + ".part")
        subprocess.run(["tar", "-C", str(layout), "-cf", str(part), "."], check=True)
        part.replace(target)
        shutil.rmtree(layout)

    def _environment(self) -> dict[str, str]:
        own = {"CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"), "TMPDIR": str(self.folder / "tmp")}
        return {**os.environ, **own}
