"""The process that owns the folder of Milvus Lite: `python -m llmariner.standalone.milvus_lite.server FOLDER`.

It listens on a free port of the loopback interface. The first line of standard input is the token that clients must
send. It prints a line of JSON with the port once it serves, and ends in order at SIGTERM, or when standard input closes:
then its parent has exited.

Milvus Lite loses rows when two threads write to a collection at once. Here one request at a time may write, whatever
clients there are.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from milvus_lite.exceptions import DataDirLockedError
from pymilvus.grpc_gen import milvus_pb2_grpc

__all__ = ["Gate", "new_server", "serve"]

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
_THREADS = 32
_MAX_MESSAGE_BYTES = 256_000_000
_LOCK_WAIT_SECONDS = 30.0
_GRACE_SECONDS = 5.0


class Gate(grpc.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Admits clients with the token, and one request that may write at a time: every one that is not a known read."""

    def __init__(self, token: str) -> None:
        self._expected = base64.b64encode(token.encode())
        self._writing = threading.Lock()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """See grpc.ServerInterceptor."""
        sent = dict(details.invocation_metadata).get("authorization", "")
        if not hmac.compare_digest(sent.encode() if isinstance(sent, str) else sent, self._expected):
            return grpc.unary_unary_rpc_method_handler(_refuse)
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method.rsplit("/", 1)[-1] in _READS:
            return handler

        def write(request: Any, context: Any) -> Any:
            with self._writing:
                # The client of a request that waited too long has given up, and may have repeated it.
                if not context.is_active():
                    context.abort(grpc.StatusCode.CANCELLED, "the client did not wait")
                return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            write, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def _refuse(_request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")


def new_server(database: Any, token: str) -> Any:
    """A grpc.Server of an open MilvusLite, without a port yet."""
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(_THREADS), interceptors=[Gate(token)], options=options)
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
    return server


def serve(folder: str) -> None:
    """Run until SIGTERM, or until standard input closes."""
    token = sys.stdin.readline().strip()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    database = _open(folder)
    try:
        server = new_server(database, token)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(json.dumps({"port": port}), flush=True)
        ended.wait()
        server.stop(_GRACE_SECONDS).wait()
    finally:
        database.close()


def _wait_for_parent(ended: threading.Event) -> None:
    # Not `sys.stdin`: a thread that holds its lock at interpreter exit is a fatal error.
    while os.read(0, 4096):
        pass
    ended.set()


def _open(folder: str) -> MilvusLite:
    """Open the folder; the server of a platform that was killed may need some seconds to end."""
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            return MilvusLite(folder)
        except DataDirLockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    serve(sys.argv[1])
