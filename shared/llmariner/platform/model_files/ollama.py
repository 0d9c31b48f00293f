"""Models of an Ollama registry: `[namespace/]name[:tag]`.

A registry answers a manifest with layers by digest, as container registries do (the OCI distribution specification); the
layer of type `model` is a GGUF file.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from llmariner.platform.model_files import ByteStream, FilesUnavailable, Listing, RemoteFile
from llmariner.platform.model_files.http_reader import HttpReader, HttpStatus

__all__ = ["OllamaSource"]

_NAME = re.compile(r"(?:[a-zA-Z0-9][\w.-]{0,79}/)?[a-zA-Z0-9][\w.-]{0,79}(?::[\w][\w.-]{0,79})?", re.ASCII)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII)
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER_PREFIX = "application/vnd.ollama.image."
_FILE_NAMES = {
    "model": "model.gguf",
    "template": "ollama_template.txt",
    "params": "ollama_params.json",
    "system": "ollama_system.txt",
    "license": "LICENSE.txt",
    "adapter": "adapter.gguf",
    "projector": "projector.gguf",
}
_REQUIRED = frozenset({"model"})


class OllamaSource:
    """See `ModelSource`. Layers that no engine here reads, such as messages, are left out.

    `account`: name and password; without a name, a token; both empty: none. They go to the host of `endpoint` only.
    """

    def __init__(
        self, location: str, *, endpoint: str, private_allowed: bool = False, account: tuple[str, str] = ("", "")
    ) -> None:
        self.only = ""
        name = location.removeprefix("ollama://")
        if not _NAME.fullmatch(name):
            raise FilesUnavailable(
                f"'{location[:200]}' is no model of an Ollama registry: write name, name:tag or namespace/name:tag."
            )
        repository, _, tag = name.partition(":")
        self._name = f"{repository}:{tag or 'latest'}"
        path = repository if "/" in repository else f"library/{repository}"
        self._base = f"{endpoint.rstrip('/')}/v2/{path}"
        self._tag = tag or "latest"
        self._http = HttpReader(
            endpoint, {"User-Agent": "llmariner"} | _authorization(*account), private_allowed=private_allowed
        )

    def list_files(self) -> Listing:
        """See the port."""
        with self._explained():
            document, content = self._http.document(f"{self._base}/manifests/{self._tag}", _MANIFEST)
        layers = document.get("layers") if isinstance(document, dict) else None
        if not isinstance(layers, list):
            raise FilesUnavailable(f"The registry's manifest of '{self._name}' has no layers.")
        files: dict[str, RemoteFile] = {}
        for layer in layers:
            for file in self._files(layer):
                files.setdefault(file.path, file)
        if not {_FILE_NAMES[kind] for kind in _REQUIRED} <= files.keys():
            raise FilesUnavailable(f"'{self._name}' has no layer with weights in its manifest.")
        return Listing(tuple(files.values()), f"sha256:{hashlib.sha256(content).hexdigest()}")

    @contextlib.contextmanager
    def open_range(self, file: RemoteFile, start: int, end: int) -> Iterator[ByteStream]:
        """See the port."""
        with self._explained(), self._http.range(file.url, start, end) as body:
            yield body

    def _files(self, layer: Any) -> Iterator[RemoteFile]:
        kind = str(layer.get("mediaType", "")).removeprefix(_LAYER_PREFIX) if isinstance(layer, dict) else ""
        if kind not in _FILE_NAMES:
            return
        digest, size = _DIGEST.fullmatch(str(layer.get("digest", ""))), layer.get("size")
        if digest is None or not isinstance(size, int):
            raise FilesUnavailable(f"The registry's manifest of '{self._name}' has a layer without digest or size.")
        url = f"{self._base}/blobs/sha256:{digest[1]}"
        yield RemoteFile(_FILE_NAMES[kind], size, url, sha256=digest[1])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except HttpStatus as error:
            if error.status in (401, 403, 404):
                raise FilesUnavailable(
                    f"The Ollama registry has no model '{self._name}', or it is private. Check the name, the tag and the "
                    "credential."
                ) from error
            raise FilesUnavailable(f"The Ollama registry refuses '{self._name}': {error}.") from error


def _authorization(username: str, secret: str) -> dict[str, str]:
    if not secret:
        return {}
    if not username:
        return {"Authorization": f"Bearer {secret}"}
    return {"Authorization": f"Basic {base64.b64encode(f'{username}:{secret}'.encode()).decode()}"}
