"""Run as a program: FOLDER ROUTE, and on standard input the packages that are absent. Prints which our code asked for.

A function is built and asked its ROUTE (`GET /v1/models`); a consumer is given an event of the type that stands there.
Whatever it answers: what counts is what it imports. A package that asks for an optional other one is no matter of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = tuple(str(CHECKOUT / name) for name in ("shared", "functions", "eventing"))


class MissingPackage(ModuleNotFoundError):
    """What an image without the package would raise."""


class ImportGuard(importlib.abc.MetaPathFinder):
    """Refuses packages; remembers those that our own code asked for."""

    def __init__(self, refused: set[str]) -> None:
        self._refused = refused
        self.asked: set[str] = set()

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Raise for excluded packages; None: the next finder."""
        name = fullname.partition(".")[0]
        if name not in self._refused:
            return
        frame = sys._getframe(1)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame.f_code.co_filename.startswith(OURS):
            self.asked.add(name)
        raise MissingPackage(f"No module named {name!r}", name=name)


async def ask(application: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    """One request, its answer thrown away."""
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "client": ("127.0.0.1", 1)}
    scope["server"] = ("127.0.0.1", 80)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        return

    with contextlib.suppress(Exception):  # it may have no database, no cluster
        await application(scope, receive, send)


def main(folder: Path, route: str) -> None:
    warden = ImportGuard(set(json.load(sys.stdin)))
    sys.meta_path.insert(0, warden)
    with contextlib.suppress(MissingPackage):
        from llmariner.boot import load

        application = load(folder).prepare()
        method, _, path = route.rpartition(" ")
        headers = [(b"authorization", b"Bearer sk-" + b"nobody00" * 6), (b"content-type", b"application/json")]
        if not method:
            method, path = "POST", "/"
            headers += [
                (b"ce-type", route.encode()),
                (b"ce-id", b"1"),
                (b"ce-source", b"/x"),
                (b"ce-specversion", b"1.0"),
            ]
        asyncio.run(ask(application, method, path, headers, b'{"id": "none", "folder": "none"}'))
    print(json.dumps(sorted(warden.asked)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
