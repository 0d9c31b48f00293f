"""Who may call Milvus Lite, and when: it takes care of neither.

- Only clients with the token are admitted: any user of the machine can connect to a port of the loopback interface.
- One request at a time may write. Two that write to a collection at once lose rows, also confirmed ones.
- What was written is sorted into files ("flushed") soon and alone. Rows that are not are searched one by one, a hundred
  times as slowly. A search that takes its view of the files before a flush and that of memory after it finds neither.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

__all__ = ["Gate", "Turns"]

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
        "HybridSearch",
        "Query",
        "Search",
        "ShowCollections",
    }
)
_WRITES = frozenset({"Insert", "Upsert", "Delete"})
_FLUSH_BYTES = 2_000_000
"""Some 1,000 chunks of 384 dimensions."""
_IDLE_SECONDS = 1.0


class Turns:
    """Lets any number of callers share, or one have it alone. One waiting for it alone goes before new ones that share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._alone = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Wait until nobody is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody shares. The caller ensures that there is one at a time."""
        with self._changed:
            self._alone = True
            self._changed.wait_for(lambda: self._sharing == 0)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Gate(grpc.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """See the module. `flush` sorts what was written to a collection into files."""

    def __init__(self, token: str, flush: Callable[[str], None], *, flush_bytes: int = _FLUSH_BYTES) -> None:
        self._expected = base64.b64encode(token.encode())
        self._flush_collection = flush
        self._flush_bytes = flush_bytes
        self._writing = threading.Lock()
        self._turns = Turns()
        self._unflushed: dict[str, int] = {}
        self._written_at = 0.0

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See grpc.ServerInterceptor."""
        sent = dict(details.invocation_metadata).get("authorization", "")
        if not hmac.compare_digest(sent.encode() if isinstance(sent, str) else sent, self._expected):
            return grpc.unary_unary_rpc_method_handler(_refuse)
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = details.method.rsplit("/", 1)[-1]
        run = self._read if method in _READS else self._write if method in _WRITES else self._change
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: run(handler.unary_unary, request, context),
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
        with self._turns.shared():
            return handle(request, context)

    def _write(self, handle: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
        with self._writing:
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
        with self._writing, self._turns.alone():
            _check_waiting(context)
            return handle(request, context)

    def _flush(self, name: str) -> None:
        """The caller has the lock of writers. What can't be flushed is safe in the log: that is no error of a request."""
        self._unflushed.pop(name, None)
        try:
            with self._turns.alone():
                self._flush_collection(name)
        except Exception:
            _log.exception("what was written to %s could not be sorted into files", name)


def _check_waiting(context: Any) -> None:
    """End a request whose client has given up, and may have repeated it."""
    if not context.is_active():
        context.abort(grpc.StatusCode.CANCELLED, "the client did not wait")


def _refuse(_request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
