"""buildah with a store of its own: nothing of it mixes with images that the user keeps."""

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

# Where distributions keep the certificates that this machine trusts; a registry's mirror may need one of its own.
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_SETTINGS = '[storage]\ndriver = "overlay"\ngraphroot = "{root}/images"\nrunroot = "{root}/run"\n'


class PrerequisiteMissing(Exception):
    """A tool or a right that building needs is not here; the message says how to get it."""


@dataclass(frozen=True)
class Image:
    """An image of the store: its name, and its layers from the base up as (digest, bytes unpacked)."""

    name: str
    layers: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all its layers."""
        return sum(size for _, size in self.layers)


class Store:
    """Images and build layers below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder. PrerequisiteMissing where buildah cannot work."""
        if shutil.which("buildah") is None:
            raise PrerequisiteMissing("buildah is not installed: apt-get install buildah")
        if os.geteuid() != 0:
            raise PrerequisiteMissing("images are built by root, or in a user namespace: buildah unshare make images")
        for name in ("images", "run", "tmp", "wheels"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "storage.conf").write_text(_SETTINGS.format(root=self.folder))

    @property
    def built_from(self) -> str:
        """`plan.sources_digest` of the files that all images of the store were built from; empty while there is no such."""
        mark = self.folder / "built-from"
        return mark.read_text() if mark.is_file() else ""

    @built_from.setter
    def built_from(self, digest: str) -> None:
        (self.folder / "built-from").write_text(digest)

    def run(self, *arguments: str) -> str:
        """Output of a buildah command. CalledProcessError when it fails; its complaints go to standard error."""
        command = ["buildah", *arguments]
        for tries_left in (2, 1, 0):
            done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
            # buildah 1.28 starts itself from a sealed copy in memory, and fails now and then to seal it.
            if done.returncode == 0 or "sealing memfd" not in done.stderr or not tries_left:
                break
        sys.stderr.write(done.stderr)
        done.check_returncode()
        return done.stdout

    def build(self, name: str, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None:
        """Build and tag an image; steps that were run before with the same input are not run again."""
        given = [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        volumes = [f"--volume={self.folder / 'wheels'}:/root/.cache"]
        if _AUTHORITIES.is_file():
            volumes.append(f"--volume={_AUTHORITIES}:{_AUTHORITIES}:ro")
        self.run(
            *("bud", "--quiet", "--layers", "--isolation", "chroot", "--timestamp", "0", *volumes),
            *("--tag", name, "--file", str(dockerfile), *given, str(context)),
        )

    def has(self, name: str) -> bool:
        """Whether an image of this name is here."""
        return bool(self.run("images", "--quiet", "--filter", f"reference={name}").strip())

    def image(self, name: str) -> Image:
        """An image that was built. CalledProcessError when it was not."""
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
        """One OCI archive of several images, each layer in it once: `ctr images import` takes it."""
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
