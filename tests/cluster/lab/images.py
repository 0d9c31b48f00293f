"""Images of the built programs, written without a builder, and the way to bring any image into the cluster."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmariner.standalone.progress import Step

from .manifests import image as image_name
from .pins import ENVOY, IN_EVERY_CLUSTER
from .places import Lab, cache
from .program_builds import program
from .proxy import envoy_files
from .wait import run

__all__ = ["BUSYBOX", "ENVOY_IMAGE", "PAUSE", "Image", "load", "load_all", "present"]

BUSYBOX = "localhost/lab/busybox:1"
ENVOY_IMAGE = f"localhost/lab/{ENVOY.replace('==', ':')}"
PAUSE = "localhost/lab/pause:1"

_APPLETS = ("busybox", "sh", "sleep", "wget", "nslookup", "httpd", "nc", "cat", "echo", "env")
_USER = "65532"  # what distroless images call nonroot
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
# Where manifests expect the program; all others are in /ko-app, as their own builder puts them.
_PLACES = {"kueue": "/manager", "manager": "/manager", "agent": "/agent", "contour": "/bin/contour"}


@dataclass(frozen=True)
class Image:
    """An image from files alone: `files` maps a path in the image to a file here."""

    name: str
    files: Mapping[str, Path]
    entrypoint: str
    user: str = _USER
    command: tuple[str, ...] = ()

    def write(self, archive: Path) -> None:
        """Write it as an OCI archive with one layer."""
        layer = archive.with_suffix(".layer")
        _write_layer(layer, self.files)
        with layer.open("rb") as file:
            layer_digest = hashlib.file_digest(file, "sha256").hexdigest()
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "User": self.user,
                    "Entrypoint": [self.entrypoint],
                    "Cmd": list(self.command),
                    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/ko-app"],
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _described(config, _CONFIG),
                "layers": [
                    {"mediaType": _LAYER, "digest": f"sha256:{layer_digest}", "size": layer.stat().st_size},
                ],
            }
        ).encode()
        named = {**_described(manifest, _MANIFEST), "annotations": {"io.containerd.image.name": self.name}}
        with tarfile.open(archive, "w") as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
            for blob in (config, manifest):
                _add(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
            tar.add(layer, f"blobs/sha256/{layer_digest}")
        layer.unlink()


def load(lab: Lab, archive: Path) -> list[str]:
    """Bring the images of an OCI or Docker archive into the cluster, and give their names."""
    words = _ctr(lab, "images", "import", "--digests=false", str(archive)).splitlines()
    return [line.split()[1] for line in words if line.startswith("unpacking ")]


def present(lab: Lab) -> set[str]:
    """The names of the images that the cluster has."""
    return set(_ctr(lab, "images", "list", "--quiet").split())


def load_all(lab: Lab) -> None:
    """Make and load what the cluster's own pods run; nothing is done for what is there. Tags tell the pins apart."""
    there = present(lab)
    missing = [image for image in _own_images() if image.name not in there]
    scratch = cache() / "image.tar"
    for image in missing:
        with Step(f"image {image.name}"):
            image.write(scratch)
            load(lab, scratch)
            scratch.unlink()


def _own_images() -> list[Image]:
    images = [
        Image(
            PAUSE,
            {"/bin/sleep": Path("/usr/bin/busybox")},
            "/bin/sleep",
            command=("2147483647",),
        ),
        Image(
            BUSYBOX,
            {
                f"/bin/{name}": Path("/usr/bin/busybox")
                for name in ("busybox", "sh", "sleep", "wget", "nslookup", "httpd", "nc")
            },
            "/bin/sh",
        ),
        Image(ENVOY_IMAGE, envoy_files(), "/usr/local/bin/envoy"),
    ]
    for project in IN_EVERY_CLUSTER:
        # Kubernetes' own programs are processes of the host.
        for name in project.commands if project.name != "kubernetes" else ():
            place = _PLACES.get(name, f"/ko-app/{name}")
            user = "0" if name == "coredns" else _USER
            images.append(Image(image_name(project.name, name), {place: program(project.name, name)}, place, user))
    return images


def _ctr(lab: Lab, *words: str) -> str:
    return run("ctr", f"--address={lab.containerd}", "--namespace=k8s.io", *words, seconds=600)


def _write_layer(path: Path, files: Mapping[str, Path]) -> None:
    with tarfile.open(path, "w") as tar:
        for folder, mode in (("tmp", 0o1777), ("etc", 0o755), ("var/run", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "etc/passwd", f"root:x:0:0::/:\nnonroot:x:{_USER}:{_USER}::/tmp:\n".encode())
        first: dict[Path, str] = {}
        for place, file in files.items():
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.mode = 0o755
            if file in first:
                entry.type, entry.linkname = tarfile.LNKTYPE, first[file]
                tar.addfile(entry)
                continue
            first[file] = entry.name
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _described(blob: bytes, kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}
