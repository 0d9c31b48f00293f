"""The process that owns the folder of Milvus Lite: `python -m llmariner.standalone.milvus_lite.server FOLDER`.

It listens on a free port of the loopback interface. The first line of standard input is the token that clients must
send. It prints a line of JSON with the port once it serves, and ends in order at SIGTERM, or when standard input closes:
then its parent has exited.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite
from milvus_lite.exceptions import CollectionNotFoundError, DataDirLockedError
from pymilvus.grpc_gen import milvus_pb2_grpc

from llmariner.standalone.milvus_lite import word_search
from llmariner.standalone.milvus_lite.attribute_filters import evaluate_by_columns
from llmariner.standalone.milvus_lite.gate import Gate

__all__ = ["new_gate", "new_server", "serve"]

_THREADS = 96
"""More than searches may run in a process of the API and wait here, so that a tenant's never keep out another's."""
_MAX_MESSAGE_BYTES = 256_000_000
_LOCK_WAIT_SECONDS = 30.0
_GRACE_SECONDS = 5.0


def new_gate(database: MilvusLite, token: str) -> Gate:
    """The gate of an open database."""

    def flush(name: str) -> None:
        with contextlib.suppress(CollectionNotFoundError):  # it was dropped in the meantime
            database.get_collection(name).flush()

    return Gate(token, flush)


def new_server(database: MilvusLite, gate: Gate) -> Any:
    """A grpc.Server of an open database, without a port yet."""
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(ThreadPoolExecutor(_THREADS), interceptors=[gate], options=options)
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
    return server


def serve(folder: str) -> None:
    """Run until SIGTERM, or until standard input closes."""
    token = sys.stdin.readline().strip()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    evaluate_by_columns()
    word_search.install()
    database = _open(folder)
    gate = new_gate(database, token)
    flushing = threading.Thread(target=gate.flush_when_idle, args=(ended,))
    flushing.start()
    try:
        server = new_server(database, gate)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        print(json.dumps({"port": port}), flush=True)
        ended.wait()
        server.stop(_GRACE_SECONDS).wait()
    finally:
        ended.set()
        flushing.join()
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
