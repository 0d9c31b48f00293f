"""Paginated lists and watches; a watch resumes where the previous response ended."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmariner.errors import Unavailable
from llmariner.platform.kube.errors import Expired, raise_for_status, unavailable
from llmariner.platform.kube.resources import Resource

if TYPE_CHECKING:
    import urllib3

    from llmariner.platform.kube.connection import Connection

__all__ = ["Listing", "ResourceQuery", "Watch", "WatchEvent"]

_PAGE_SIZE = 500
# What a page counts at least, and how often a list is begun.
_PAGE_BYTES, _LIST_ATTEMPTS = 64 * 1024, 5
# Seconds of one watch request: short, so that a connection that died silently is detected in about a minute.
_STREAM_SECONDS, _READ_GRACE_SECONDS = 60, 15
_INITIAL_BACKOFF, _MAX_BACKOFF = 0.5, 30.0


class Listing(NamedTuple):
    """A consistent list of objects at `resource_version`."""

    items: list[dict[str, Any]]
    resource_version: str


class WatchEvent(NamedTuple):
    """A change of an object; of a deleted object, its last observed state."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: dict[str, Any]


class ResourceQuery:
    """Objects of one kind by labels and `fields`, a field selector. `namespace` None: of all namespaces."""

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
        # Items of a list have no apiVersion and kind.
        self._type = {"apiVersion": resource.api_version, "kind": resource.kind}

    def list(self) -> Listing:
        """All objects. A list that expires between two pages is restarted, a few times."""
        ends_at = time.monotonic() + self._connection.list_seconds
        for _ in range(_LIST_ATTEMPTS - 1):
            with contextlib.suppress(Expired):
                return self._pages(ends_at)
        return self._pages(ends_at)

    def stream(self, resource_version: str, seconds: int) -> urllib3.BaseHTTPResponse:
        """Changes after `resource_version`, one JSON object a line, for at most `seconds`."""
        watch_query: dict[str, str | int | None] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": seconds,
        }
        return self._connection.stream(self._path, {**self._query, **watch_query}, seconds + _READ_GRACE_SECONDS)

    def _pages(self, ends_at: float) -> Listing:
        items: list[dict[str, Any]] = []
        token, left = None, self._connection.list_bytes
        while True:
            query = {**self._query, "limit": _PAGE_SIZE, "continue": token}
            page, size = self._connection.page(self._path, query)
            # A server of others may have pages without an end, or slow ones.
            if (left := left - size - _PAGE_BYTES) < 0 or time.monotonic() > ends_at:
                raise unavailable(ValueError("its list is too long"))
            items += [{**self._type, **item} for item in page.get("items") or ()]
            token = page["metadata"].get("continue")
            if not token:
                return Listing(items, page["metadata"]["resourceVersion"])


class Watch:
    """An iterator of changes, for one thread; `close` from any thread ends it.

    While the API server is unavailable, the watch retries. When its resourceVersion has expired, it lists the objects again
    and yields one event per object that differs. Without `after` it first yields all objects as ADDED. It ends after
    `seconds` (None: never). Unavailable only where the first list fails; ClusterError when the server rejects a request.
    """

    def __init__(self, query: ResourceQuery, after: Listing | None, seconds: float | None) -> None:
        self._query = query
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._last_seen = {_key(item): item for item in after.items} if after else {}
        self._resource_version = after.resource_version if after else ""
        self._closed = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None

    def __iter__(self) -> Iterator[WatchEvent]:
        if not self._resource_version:
            yield from self._relist()
        backoff = _INITIAL_BACKOFF
        while not self._closed.is_set() and (left := self._remaining_seconds()) > 0:
            began = time.monotonic()
            try:
                yield from self._stream_once(max(1, round(left)))
            except Expired:
                # The next iteration lists again, and retries if that list fails.
                self._resource_version = ""
            except Unavailable:
                pass
            # A response that ends at once counts as a failure, too.
            backoff = _INITIAL_BACKOFF if time.monotonic() - began > 1 else min(2 * backoff, _MAX_BACKOFF)
            self._closed.wait(0 if backoff == _INITIAL_BACKOFF else min(backoff, self._remaining_seconds()))

    def close(self) -> None:
        """End the iteration, also while it waits."""
        self._closed.set()
        if response := self._response:
            # The response may have ended already.
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                response.shutdown()

    def _remaining_seconds(self) -> float:
        return _STREAM_SECONDS if self._deadline is None else min(_STREAM_SECONDS, self._deadline - time.monotonic())

    def _stream_once(self, seconds: int) -> Iterator[WatchEvent]:
        """The changes of one watch request."""
        if not self._resource_version:
            yield from self._relist()
        with self._query.stream(self._resource_version, seconds) as response:
            self._response = response
            if self._closed.is_set():
                return
            try:
                for line in _lines(response):
                    if change := self._handle(json.loads(line)):
                        yield change
            finally:
                self._response = None

    def _handle(self, event: dict[str, Any]) -> WatchEvent | None:
        item = event["object"]
        if event["type"] == "ERROR":
            raise_for_status(item.get("code", 500), item)
        self._resource_version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            return None
        if event["type"] == "DELETED":
            self._last_seen.pop(_key(item), None)
        else:
            self._last_seen[_key(item)] = item
        return WatchEvent(event["type"], item)

    def _relist(self) -> Iterator[WatchEvent]:
        """List the objects; yields their differences from the last observed state."""
        listing = self._query.list()
        current = {_key(item): item for item in listing.items}
        before, self._last_seen, self._resource_version = self._last_seen, current, listing.resource_version
        yield from (WatchEvent("DELETED", item) for key, item in before.items() if key not in current)
        for key, item in current.items():
            if key not in before:
                yield WatchEvent("ADDED", item)
            elif item["metadata"]["resourceVersion"] != before[key]["metadata"]["resourceVersion"]:
                yield WatchEvent("MODIFIED", item)


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    import urllib3

    try:
        yield from (line for line in response if line.strip())
    except (urllib3.exceptions.HTTPError, OSError):
        # The connection broke; the next watch request resumes where this one ended.
        return


def _key(item: dict[str, Any]) -> str:
    # An object that was created again under the same name has another uid.
    return str(item["metadata"]["uid"])
