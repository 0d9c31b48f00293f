"""Who may call Milvus Lite, and when: it takes care of neither.

- Only clients with the token are admitted: any user of the machine can connect to a port of the loopback interface.
- As many searches run at once as there are processors, of all tenants in turn.
- One request at a time may write. Two that write to a collection at once lose rows, also confirmed ones.
- What was written is sorted into files ("flushed") soon and alone. Rows that are not are searched one by one, a hundred
  times as slowly. A search that takes its view of the files before a flush and that of memory after it finds neither.

No wait is longer than the time that its client gives the request. One that waits to be alone holds up all others, so it
gives up much earlier: a slow search delays a flush, and not every other search.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from llmariner.platform.vectors.expressions import tenant_of
from llmariner.standalone.milvus_lite.shares import Shares
from llmariner.standalone.milvus_lite.turns import Busy, Turns

__all__ = ["Gate"]

_log = logging.getLogger(__name__)
_READS = frozenset(
    {
        "CheckHealth",
        "Connect",
        "DescribeCollection",
        "DescribeIndex",
        "GetCollectionStatistics",
        "GetLoadState",
        "GetLoadingProgress",
        "GetVersion",
        "HasCollection",
        "ShowCollections",
    }
)
_SEARCHES = frozenset({"HybridSearch", "Query", "Search"})
_WRITES = frozenset({"Insert", "Upsert", "Delete"})
_FLUSH_BYTES = 2_000_000
"""Some 1,000 chunks of 384 dimensions."""
_IDLE_SECONDS = 1.0
_REQUEST_SECONDS = 30.0
"""For a request whose client sets no time."""
_ALONE_SECONDS = 5.0
_FLUSH_AGAIN_SECONDS = 5.0


class Gate(grpc.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """See the module. `flush` sorts what was written to a collection into files.

    `searches`: how many run at once; None: one per processor.
    """

    def __init__(
        self, token: str, flush: Callable[[str], None], *, flush_bytes: int = _FLUSH_BYTES, searches: int | None = None
    ) -> None:
        self._expected = base64.b64encode(token.encode())
        self._flush_collection = flush
        self._flush_bytes = flush_bytes
        self._writing = threading.Lock()
        self._turns = Turns()
        self._shares = Shares(searches or max(2, len(os.sched_getaffinity(0))))
        self._unflushed: dict[str, int] = {}
        self._written_at = 0.0
        self._flush_again_at = 0.0

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See grpc.ServerInterceptor."""
        sent = dict(details.invocation_metadata).get("authorization", "")
        if not hmac.compare_digest(sent.encode() if isinstance(sent, str) else sent, self._expected):
            return grpc.unary_unary_rpc_method_handler(_refuse)
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = details.method.rsplit("/", 1)[-1]
        run = self._change
        for methods, known in ((_READS, self._read), (_SEARCHES, self._search), (_WRITES, self._write)):
            if method in methods:
                run = known

        def handle(request: Any, context: Any) -> Any:
            try:
                return run(handler.unary_unary, request, context)
            except Busy:
                # pymilvus repeats a request that is UNAVAILABLE, each time for as long as the first.
                code = grpc.StatusCode.UNAVAILABLE if _seconds(context) > 1 else grpc.StatusCode.DEADLINE_EXCEEDED
                context.abort(code, "other requests did not end in time")

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def flush_when_idle(self, ended: threading.Event) -> None:
        """Flush what is left over a second after the last write, until `ended` is set."""
        while not ended.wait(_IDLE_SECONDS / 2):
            if self._unflushed and time.monotonic() - self._written_at > _IDLE_SECONDS:
                with self._writing:
                    for name in list(self._unflushed):
                        self._flush(name)

    def _read(self, handle: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        with self._turns.shared(_seconds(context)):
            _check_waiting(context)
            return handle(request, context)

    def _search(self, handle: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        expression = getattr(request, "dsl", "") or getattr(request, "expr", "")
        with self._shares.of(tenant_of(expression), _seconds(context)):
            return self._read(handle, request, context)

    def _write(self, handle: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        with self._writer(_seconds(context)):
            _check_waiting(context)
            name = request.collection_name
            self._unflushed[name] = self._unflushed.get(name, 0) + request.ByteSize()
            try:
                return handle(request, context)
            finally:
                self._written_at = time.monotonic()
                if self._unflushed[name] > self._flush_bytes:
                    self._flush(name)

    def _change(self, handle: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        with self._writer(_seconds(context)), self._turns.alone(min(_ALONE_SECONDS, _seconds(context))):
            _check_waiting(context)
            return handle(request, context)

    @contextlib.contextmanager
    def _writer(self, seconds: float) -> Iterator[None]:
        if not self._writing.acquire(timeout=seconds):
            raise Busy
        try:
            yield
        finally:
            self._writing.release()

    def _flush(self, name: str) -> None:
        """The caller has the lock of writers. What can't be flushed is safe in the log: that is no error of a request.

        It is tried again some seconds later.
        """
        if time.monotonic() < self._flush_again_at:
            return
        try:
            with self._turns.alone(_ALONE_SECONDS):
                self._flush_collection(name)
            del self._unflushed[name]
        except Busy:
            self._flush_again_at = time.monotonic() + _FLUSH_AGAIN_SECONDS
        except Exception:
            _log.exception("what was written to %s could not be sorted into files", name)
            self._flush_again_at = time.monotonic() + _FLUSH_AGAIN_SECONDS


def _seconds(context: Any) -> float:
    """How long a request may wait."""
    left: float | None = context.time_remaining()
    return _REQUEST_SECONDS if left is None else max(0.0, min(left, _REQUEST_SECONDS))


def _check_waiting(context: Any) -> None:
    """End a request whose client has given up, and may have repeated it."""
    if not context.is_active():
        context.abort(grpc.StatusCode.CANCELLED, "the client did not wait")


def _refuse(_request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
