"""A server with the wire protocols of the Hugging Face Hub and of the Ollama registry, for files that a test gives it.

Hub: the listing of a revision with `blobs=true`; `resolve` answers small files itself and redirects those of LFS to a
content network, which this server plays as well. Registry: manifests, and blobs by a redirect. Faults are by request.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

__all__ = ["ModelServer", "running_server"]

COMMIT = "5d0c5a1a2d9c0f3b8b7e6d5c4b3a29181706f5e4"
_BLOCK = 64 << 10
_LFS = (".safetensors", ".gguf", ".bin")


@dataclass
class ModelServer:
    """`repositories`: name → path → content. `fault`: see `Fault`; `sent`: bytes of contents that were sent, by path."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    token: str = ""
    gated: set[str] = field(default_factory=set)
    redirect_to: str = ""
    answer: bytes | None = None
    """The answer to all requests for lists."""
    serves_ranges: bool = True
    bytes_per_second: float = 0.0
    fault: Callable[[str, int, int], str] = lambda path, start, count: ""
    """Gets path, start and the number of requests so far; returns `drop`, `drip`, `stall`, `503`, `lie`, or nothing."""
    sent: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Path, Range, Authorization of each request."""
    released: threading.Event = field(default_factory=threading.Event)
    _digests: dict[bytes, str] = field(default_factory=dict)

    def blobs(self) -> dict[str, bytes]:
        """Contents by SHA-256."""
        return {self.sha256(each): each for files in self.repositories.values() for each in files.values()}

    def sha256(self, content: bytes) -> str:
        """Its digest in hex, computed once."""
        return self._digests.get(content) or self._digests.setdefault(content, hashlib.sha256(content).hexdigest())

    def total_sent(self) -> int:
        """Bytes of contents of all files."""
        return sum(self.sent.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        at, path = self.server.state, unquote(urlsplit(self.path).path)
        at.requests.append((path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._list(at, found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(at, found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(at, *found.groups())
        elif found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            self._manifest(at, f"{found[1]}:{found[2]}")
        elif found := re.fullmatch(r"/(?:cdn|v2/.+/blobs)/(?:sha256:)?([0-9a-f]{64})", path):
            if path.startswith("/v2/"):
                self._redirect(at, found[1])  # to a content network
            else:
                self._content(at, found[1], at.blobs().get(found[1]))
        else:
            self._refuse(404, "")

    do_HEAD = do_GET  # noqa: N815

    def _list(self, at: ModelServer, name: str, revision: str) -> None:
        if at.answer is not None:
            self._json(None, "application/json")
        elif name in at.gated and self.headers.get("Authorization") != f"Bearer {at.token}":
            self._refuse(401, "GatedRepo")
        elif name not in at.repositories:
            self._refuse(401, "RepoNotFound")  # as the Hub does, which does not say whether it is private
        elif revision not in ("main", at.commit, at.commit[:7]):
            self._refuse(404, "RevisionNotFound")
        else:
            siblings = [_sibling(path, content) for path, content in at.repositories[name].items()]
            self._json({"id": name, "sha": at.commit, "private": False, "siblings": siblings}, "application/json")

    def _tree(self, at: ModelServer, name: str) -> None:
        """Another form of the listing, which the client of the Hub asks for before a snapshot."""
        found = []
        for path, content in at.repositories[name].items():
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _git_sha1(content)}
            if path.endswith(_LFS):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            found.append(entry)
        self._json(found, "application/json")

    def _resolve(self, at: ModelServer, name: str, revision: str, path: str) -> None:
        content = at.repositories.get(name, {}).get(path)
        if content is None or revision not in (at.commit, "main"):
            self._refuse(404, "EntryNotFound")
            return
        if path.endswith(_LFS):
            self._redirect(at, hashlib.sha256(content).hexdigest(), size=len(content))
        else:
            self._content(at, path, content, etag=_git_sha1(content))

    def _manifest(self, at: ModelServer, name: str) -> None:
        layers = at.repositories.get(name.removeprefix("library/"))
        if layers is None:
            self._refuse(404, "")
            return
        described = [
            {"mediaType": kind, "digest": f"sha256:{at.sha256(content)}", "size": len(content)}
            for kind, content in layers.items()
        ]
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        self._json({"schemaVersion": 2, "mediaType": kind, "layers": described}, kind)

    def _redirect(self, at: ModelServer, digest: str, size: int | None = None) -> None:
        self.send_response(302)
        self.send_header("Location", f"{at.redirect_to or at.url}/cdn/{digest}?signature=secret")
        if size is not None:
            self.send_header("X-Repo-Commit", at.commit)
            self.send_header("X-Linked-Size", str(size))
            self.send_header("X-Linked-ETag", f'"{digest}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _content(self, at: ModelServer, name: str, content: bytes | None, etag: str = "") -> None:
        if content is None:
            self._refuse(404, "")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if at.serves_ranges else None
        start = int(asked[1]) if asked else 0
        end = min(len(content), int(asked[2]) + 1 if asked and asked[2] else len(content))
        fault = at.fault(name, start, len(at.requests))
        if fault == "503":
            self._refuse(503, "")
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{etag or name}"')
        self.send_header("Accept-Ranges", "bytes")
        if etag:
            self.send_header("X-Repo-Commit", at.commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[start:end] if fault != "lie" else b"?" * (end - start)
        self._send(at, name, body, fault)

    def _send(self, at: ModelServer, name: str, body: bytes, fault: str) -> None:
        if fault == "drip":
            self._drip(at, body)
            return
        stop = len(body) // 2 if fault in ("drop", "stall") else len(body)
        for position in range(0, stop, _BLOCK):
            block = body[position : min(stop, position + _BLOCK)]
            self.wfile.write(block)
            at.sent[name] = at.sent.get(name, 0) + len(block)
            if at.bytes_per_second:
                time.sleep(len(block) / at.bytes_per_second)
        if fault == "stall":
            self.wfile.flush()
            at.released.wait(60)
        self.close_connection = stop < len(body)

    def _drip(self, at: ModelServer, body: bytes) -> None:
        for position in range(len(body)):
            self.wfile.write(body[position : position + 1])
            if at.released.wait(0.05):
                return

    def _json(self, value: object, kind: str) -> None:
        answer = self.server.state.answer
        body = json.dumps(value).encode() if answer is None else answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: ModelServer

    def handle_error(self, *_: object) -> None:
        """A client that ended."""


@contextmanager
def running_server(port: int = 0) -> Iterator[ModelServer]:
    """Run the server for the block, on a port of loopback; 0: a free one."""
    server = _Server(("127.0.0.1", port), _Handler)
    server.state = ModelServer(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.state.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def _sibling(path: str, content: bytes) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": _git_sha1(content)}
    if path.endswith(_LFS):
        found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
