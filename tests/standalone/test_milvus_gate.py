"""The gate of Milvus Lite: one request at a time may write, and none reads while rows move to files."""

from __future__ import annotations

import base64
import threading
import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from llmariner.platform.vectors.expressions import where
from llmariner.standalone.milvus_lite import gate as gate_module
from llmariner.standalone.milvus_lite.gate import Gate

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
        threading.Thread(target=lambda one=one: met.append(one.unary_unary(request(), context()))) for one in handlers
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
    writer = threading.Thread(target=lambda: write.unary_unary(request(), context()))
    writer.start()
    deadline = time.monotonic() + 20
    while not gate._turns._alone:
        assert time.monotonic() < deadline, "the flush does not wait for readers"
        time.sleep(0.001)
    assert read.unary_unary(request(), context()) is False
    writer.join()
    assert flushed == [("chunks", False)]


def test_flushes_after_many_bytes_and_when_it_is_idle() -> None:
    flushed: list[str] = []
    gate = Gate("token", flushed.append, flush_bytes=25)
    write = handler_of(gate, "Upsert", lambda _request, _context: "written")
    for _ in range(2):
        write.unary_unary(request(), context())
    assert flushed == []
    write.unary_unary(request(), context())
    assert flushed == ["chunks"]

    write.unary_unary(request(), context())
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
        assert write.unary_unary(request(), context()) == "written"
        assert read.unary_unary(request(), context()) == "read"


class Aborted(Exception):
    """What grpc raises in `abort`."""


def context(*, seconds: float | None = None, is_active: bool = True) -> SimpleNamespace:
    """That of a request, whose client waits so long."""

    def abort(code: grpc.StatusCode, _details: str) -> None:
        raise Aborted(code.name)

    return SimpleNamespace(is_active=lambda: is_active, time_remaining=lambda: seconds, abort=abort)


class Hanging:
    """A handler whose first call does not end until it is released."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def handle(self, _request: Any, _context: Any) -> str:
        if not self.entered.is_set():
            self.entered.set()
            self.release.wait(20)
        return "done"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits to be alone, and the time between flushes, are short."""
    monkeypatch.setattr(gate_module, "_ALONE_SECONDS", 0.05)
    monkeypatch.setattr(gate_module, "_FLUSH_AGAIN_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_search_that_hangs_stalls_neither_writes_nor_other_searches_and_the_flush_comes_later() -> None:
    flushed: list[str] = []
    gate, hanging = Gate("token", flushed.append, flush_bytes=5, searches=9), Hanging()
    search = handler_of(gate, "Search", hanging.handle)
    write = handler_of(gate, "Upsert", lambda _request, _context: "written")
    load = handler_of(gate, "LoadCollection", lambda _request, _context: "loaded")
    thread = threading.Thread(target=lambda: search.unary_unary(request(), context(seconds=20)))
    thread.start()
    assert hanging.entered.wait(20)
    for _ in range(2):
        assert write.unary_unary(request(), context(seconds=20)) == "written"
        with pytest.raises(Aborted, match="UNAVAILABLE"):
            load.unary_unary(request(), context(seconds=20))
        assert search.unary_unary(request(), context(seconds=20)) == "done"
    assert (flushed, gate._unflushed) == ([], {"chunks": 20})
    hanging.release.set()
    thread.join()
    time.sleep(0.06)
    assert load.unary_unary(request(), context(seconds=20)) == "loaded"
    assert write.unary_unary(request(), context(seconds=20)) == "written"
    assert (flushed, gate._unflushed) == (["chunks"], {})


@pytest.mark.parametrize(
    ("method", "other"), [("Upsert", "Upsert"), ("Upsert", "DropCollection"), ("Search", "Search")]
)
def test_a_request_waits_no_longer_than_its_client(method: str, other: str) -> None:
    gate, hanging = Gate("token", lambda _: None, searches=1), Hanging()
    first, second = handler_of(gate, method, hanging.handle), handler_of(gate, other, hanging.handle)
    thread = threading.Thread(target=lambda: first.unary_unary(request(), context(seconds=20)))
    thread.start()
    assert hanging.entered.wait(20)
    with pytest.raises(Aborted, match="DEADLINE_EXCEEDED"):
        second.unary_unary(request(), context(seconds=0.01))
    hanging.release.set()
    thread.join()
    assert second.unary_unary(request(), context(seconds=20)) == "done"


def test_searches_of_one_tenant_that_wait_do_not_delay_anothers() -> None:
    gate, hanging, order = Gate("token", lambda _: None, searches=1), Hanging(), []
    hang = handler_of(gate, "Search", hanging.handle)
    search = handler_of(gate, "Search", lambda request, _context: order.append(request.dsl))

    def start(handler: Any, tenant: str) -> threading.Thread:
        asked = SimpleNamespace(dsl=where(tenant, vector_store_ids=["vs_1"]))
        thread = threading.Thread(target=lambda: handler.unary_unary(asked, context(seconds=20)))
        thread.start()
        return thread

    threads = [start(hang, "proj_greedy")]
    assert hanging.entered.wait(20)
    threads += [start(search, "proj_greedy") for _ in range(5)] + [start(search, "proj_modest")]
    deadline = time.monotonic() + 20
    while sum(map(len, gate._shares._waiting.values())) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    hanging.release.set()
    for thread in threads:
        thread.join()
    assert order.index(where("proj_modest", vector_store_ids=["vs_1"])) == 0


def test_request_whose_client_has_given_up_is_not_handled() -> None:
    gate = Gate("token", lambda _: None)
    for method in ("Upsert", "DropCollection", "Search", "HasCollection"):
        handled: list[Any] = []
        with pytest.raises(Aborted, match="CANCELLED"):
            handler_of(gate, method, lambda *_, seen=handled: seen.append(1)).unary_unary(
                request(), context(seconds=9, is_active=False)
            )
        assert handled == []
