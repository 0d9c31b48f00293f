"""The gate of Milvus Lite: one request at a time may write, and none reads while rows move to files."""

from __future__ import annotations

import base64
import threading
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from llmariner.standalone.milvus_lite.gate import Gate

CONTEXT = SimpleNamespace(is_active=lambda: True)
SENT = (("authorization", base64.b64encode(b"token").decode()),)


class Meeting:
    """Handles calls; each says whether another call ran at the same time."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)

    def handle(self, _request: Any = None, _context: Any = None) -> bool:
        """Wait for another call, for at most 0.3 s."""
        try:
            self._barrier.wait(0.3)
        except threading.BrokenBarrierError:
            return False
        return True


def request(size: int = 10) -> SimpleNamespace:
    return SimpleNamespace(collection_name="chunks", ByteSize=lambda: size)


def handler_of(gate: Gate, method: str, handle: Any) -> Any:
    details = SimpleNamespace(method=f"/milvus.proto.milvus.MilvusService/{method}", invocation_metadata=SENT)
    return gate.intercept_service(lambda _: grpc.unary_unary_rpc_method_handler(handle), details)


def ran_together(gate: Gate, methods: tuple[str, str], meeting: Meeting) -> list[bool]:
    met: list[bool] = []
    handlers = [handler_of(gate, method, meeting.handle) for method in methods]
    threads = [
        threading.Thread(target=lambda one=one: met.append(one.unary_unary(request(), CONTEXT))) for one in handlers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return met


@pytest.mark.parametrize(
    ("methods", "together"),
    [
        (("Upsert", "Upsert"), False),
        (("Upsert", "Delete"), False),
        (("Insert", "Flush"), False),
        (("CreateIndex", "LoadCollection"), False),
        (("OfALaterRelease", "Upsert"), False),
        (("LoadCollection", "Search"), False),
        (("Search", "Upsert"), True),
        (("Query", "Search"), True),
    ],
)
def test_which_requests_run_together(methods: tuple[str, str], together: bool) -> None:
    gate = Gate("token", lambda _: None)
    assert ran_together(gate, methods, Meeting()) == [together, together]


def test_nobody_reads_during_a_flush_and_a_read_is_ended_first() -> None:
    meeting, flushed = Meeting(), []
    gate = Gate("token", lambda name: flushed.append((name, meeting.handle())), flush_bytes=5)
    write = handler_of(gate, "Upsert", lambda _request, _context: "written")
    read = handler_of(gate, "Search", meeting.handle)
    writer = threading.Thread(target=lambda: write.unary_unary(request(), CONTEXT))
    writer.start()
    deadline = time.monotonic() + 20
    while not gate._turns._alone:
        assert time.monotonic() < deadline, "the flush does not wait for readers"
        time.sleep(0.001)
    assert read.unary_unary(request(), CONTEXT) is False
    writer.join()
    assert flushed == [("chunks", False)]


def test_flushes_after_many_bytes_and_when_it_is_idle() -> None:
    flushed: list[str] = []
    gate = Gate("token", flushed.append, flush_bytes=25)
    write = handler_of(gate, "Upsert", lambda _request, _context: "written")
    for _ in range(2):
        write.unary_unary(request(), CONTEXT)
    assert flushed == []
    write.unary_unary(request(), CONTEXT)
    assert flushed == ["chunks"]

    write.unary_unary(request(), CONTEXT)
    ended = threading.Event()
    idle = threading.Thread(target=gate.flush_when_idle, args=(ended,))
    idle.start()
    deadline = time.monotonic() + 20
    while len(flushed) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    ended.set()
    idle.join()
    assert flushed == ["chunks", "chunks"]


def test_failed_flush_is_no_error_of_the_write_and_leaves_the_gate_open() -> None:
    def fail(_name: str) -> None:
        raise OSError("the disk is full")

    gate = Gate("token", fail, flush_bytes=1)
    write = handler_of(gate, "Upsert", lambda _request, _context: "written")
    read = handler_of(gate, "Search", lambda _request, _context: "read")
    for _ in range(2):
        assert write.unary_unary(request(), CONTEXT) == "written"
        assert read.unary_unary(request(), CONTEXT) == "read"


def test_request_whose_client_has_given_up_is_not_handled() -> None:
    class Gone(Exception):
        """What grpc raises in `abort`."""

    def abort(*_: Any) -> None:
        raise Gone

    gate = Gate("token", lambda _: None)
    context = SimpleNamespace(is_active=lambda: False, abort=abort)
    for method in ("Upsert", "DropCollection"):
        handled: list[Any] = []
        with pytest.raises(Gone):
            handler_of(gate, method, lambda *_, seen=handled: seen.append(1)).unary_unary(request(), context)
        assert handled == []
