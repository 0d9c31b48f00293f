"""Reading many objects: lists page by page, and watches that go on where the last answer ended."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmariner.errors import Unavailable
from llmariner.platform.kube.errors import Expired, refuse
from llmariner.platform.kube.resources import Resource

if TYPE_CHECKING:
    import urllib3

    from llmariner.platform.kube.connection import Connection

__all__ = ["Change", "Listing", "Selection", "Watch"]

_PAGE = 500
# Seconds of one answer: so short that a connection which died unseen is noticed in about a minute.
_SPAN, _GRACE = 60, 15
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Listing(NamedTuple):
    """Objects as they were at one moment, which `resource_version` names."""

    items: list[dict[str, Any]]
    resource_version: str


class Change(NamedTuple):
    """What became of an object; of a deleted one, its last state that was seen."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: dict[str, Any]


class Selection:
    """Some objects of one kind. `namespace` None: of all namespaces; `fields` is a field selector."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        namespace: str | None,
        labels: Mapping[str, str] | None,
        fields: str | None,
    ) -> None:
        self._connection = connection
        self._path = resource.path(namespace)
        self._query = {
            "labelSelector": ",".join(f"{key}={value}" for key, value in (labels or {}).items()) or None,
            "fieldSelector": fields,
        }
        # Items of a list don't say what they are.
        self._type = {"apiVersion": resource.api_version, "kind": resource.kind}

    def list(self) -> Listing:
        """All of them. A list that expires between two pages is begun anew."""
        while True:
            try:
                return self._pages()
            except Expired:
                continue

    def stream(self, resource_version: str, seconds: int) -> urllib3.BaseHTTPResponse:
        """Changes after `resource_version`, one JSON object a line, for at most `seconds`."""
        asked: dict[str, str | int | None] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": seconds,
        }
        return self._connection.stream(self._path, {**self._query, **asked}, seconds + _GRACE)

    def _pages(self) -> Listing:
        items: list[dict[str, Any]] = []
        token = None
        while True:
            page = self._connection.request("GET", self._path, {**self._query, "limit": _PAGE, "continue": token})
            items += [{**self._type, **item} for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                return Listing(items, page["metadata"]["resourceVersion"])


class Watch:
    """Iterate for changes, in one thread; `close` from any thread ends it.

    An API server that goes away is waited for, and what was missed meanwhile is found by listing anew: every object
    whose state differs is told once. Without `after` all objects come first, as ADDED. Ends after `seconds` (None: never).
    Unavailable only where the first list fails; ClusterError when the server refuses.
    """

    def __init__(self, selection: Selection, after: Listing | None, seconds: float | None) -> None:
        self._selection = selection
        self._end = None if seconds is None else time.monotonic() + seconds
        self._known = {_key(item): item for item in after.items} if after else {}
        self._version = after.resource_version if after else ""
        self._closed = threading.Event()
        self._answer: urllib3.BaseHTTPResponse | None = None

    def __iter__(self) -> Iterator[Change]:
        if not self._version:
            yield from self._listed()
        pause = _FIRST_PAUSE
        while not self._closed.is_set() and (left := self._left()) > 0:
            began = time.monotonic()
            try:
                yield from self._changes(max(1, round(left)))
            except Expired:
                # Also this list may fail, and is then tried again: nothing is expired but our version.
                self._version = ""
            except Unavailable:
                pass
            # An answer that ends at once is a fault too, whoever cut it.
            pause = _FIRST_PAUSE if time.monotonic() - began > 1 else min(2 * pause, _LONGEST_PAUSE)
            self._closed.wait(0 if pause == _FIRST_PAUSE else min(pause, self._left()))

    def close(self) -> None:
        """End the iteration, also one that waits."""
        self._closed.set()
        if answer := self._answer:
            # It may have ended by itself just now.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                answer.shutdown()

    def _left(self) -> float:
        return _SPAN if self._end is None else min(_SPAN, self._end - time.monotonic())

    def _changes(self, seconds: int) -> Iterator[Change]:
        """One answer's changes."""
        if not self._version:
            yield from self._listed()
        with self._selection.stream(self._version, seconds) as answer:
            self._answer = answer
            if self._closed.is_set():
                return
            try:
                for line in _lines(answer):
                    if change := self._heard(json.loads(line)):
                        yield change
            finally:
                self._answer = None

    def _heard(self, event: dict[str, Any]) -> Change | None:
        item = event["object"]
        if event["type"] == "ERROR":
            refuse(item.get("code", 500), item)
        self._version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return None
        if event["type"] == "DELETED":
            self._known.pop(_key(item), None)
        else:
            self._known[_key(item)] = item
        return Change(event["type"], item)

    def _listed(self) -> Iterator[Change]:
        """The difference between what is there and what was told."""
        listing = self._selection.list()
        there = {_key(item): item for item in listing.items}
        before, self._known, self._version = self._known, there, listing.resource_version
        yield from (Change("DELETED", item) for key, item in before.items() if key not in there)
        for key, item in there.items():
            if key not in before:
                yield Change("ADDED", item)
            elif item["metadata"]["resourceVersion"] != before[key]["metadata"]["resourceVersion"]:
                yield Change("MODIFIED", item)


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    import urllib3

    try:
        yield from (line for line in answer if line.strip())
    except (urllib3.exceptions.HTTPError, OSError):
        # Broken off; the next answer begins where this one ended.
        return


def _key(item: dict[str, Any]) -> str:
    # A name that was given anew is another object.
    return str(item["metadata"]["uid"])
