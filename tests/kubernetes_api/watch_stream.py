"""A watch: existing objects and then changes, as lines of JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from .kinds import Kind
from .status_errors import StatusError
from .store import Change, Store

__all__ = ["watch_lines"]

Body = dict[str, Any]
MAX_SECONDS = 1800.0
# Seconds between two looks at whether the listener is still there.
HEARTBEAT_SECONDS = 0.5


def watch_lines(
    store: Store, kind: Kind, namespace: str, wanted: Callable[[Body], bool], query: dict[str, str]
) -> Iterator[bytes]:
    """The response to one watch. Empty lines let the server detect a closed connection. StatusError (410) before them."""
    version = int(query.get("resourceVersion") or 0)
    everything = version == 0 or query.get("sendInitialEvents") == "true"
    if not everything:
        store.check(version)
    return _lines(store, kind, namespace, wanted, query, None if everything else version)


def _lines(
    store: Store,
    kind: Kind,
    namespace: str,
    wanted: Callable[[Body], bool],
    query: dict[str, str],
    after: int | None,
) -> Iterator[bytes]:
    end = time.monotonic() + float(query.get("timeoutSeconds") or MAX_SECONDS)
    bookmarks = query.get("allowWatchBookmarks") == "true"
    if after is None:
        after, found = store.all(kind, namespace)
        yield from (_line("ADDED", body) for body in found if wanted(body))
        if query.get("sendInitialEvents") == "true":
            yield _bookmark(kind, after, {"k8s.io/initial-events-end": "true"})
    while (left := end - time.monotonic()) > 0:
        try:
            changes = store.since(after, min(left, HEARTBEAT_SECONDS))
        except StatusError as refusal:
            yield _line("ERROR", refusal.status())
            return
        for change in changes:
            after = change.version
            if change.kind.store == kind.store and namespace in ("", change.body["metadata"].get("namespace", "")):
                yield from _watch_events(change, kind, wanted)
        yield b""
    if bookmarks:
        yield _bookmark(kind, after, {})


def _watch_events(change: Change, kind: Kind, wanted: Callable[[Body], bool]) -> Iterator[bytes]:
    """A selector makes an object come and go when its labels change."""
    now = change.type != "DELETED" and wanted(change.body)
    then = change.before is not None and wanted(change.before)
    body = {**change.body, "apiVersion": kind.api_version}
    if now or then:
        yield _line("MODIFIED" if now and then else "ADDED" if now else "DELETED", body)


def _bookmark(kind: Kind, version: int, annotations: dict[str, str]) -> bytes:
    metadata: Body = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    return _line("BOOKMARK", {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata})


def _line(type_: str, body: Body) -> bytes:
    return json.dumps({"type": type_, "object": body}).encode() + b"\n"
