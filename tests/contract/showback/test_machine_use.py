"""How far one machine is used: processor time of its workloads by hour, and its GPUs by an exporter's page."""

from __future__ import annotations

import http.server
import threading
import time
from functools import partial
from typing import Any

import pytest

from llmariner.platform.capacity import Claim, Kind
from llmariner.platform.database import Database
from llmariner.showback.allocations import Allocations
from llmariner.showback.gpu_exporter import GpuExporter, read_page
from llmariner.showback.machine_use import Workload, add_core_seconds
from llmariner.showback.recorder import AllocationRecorder
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.representation import compute_result
from llmariner.showback.utilization import HOUR, gpu_use_by_node
from llmariner.tenancy.keys.store import KeyOwner

from .test_utilization import BLANK, EXPORTED

START = 1_800_000_000 // HOUR * HOUR


def shown(database: Database, owner: KeyOwner, start: int = START) -> dict[str, Any]:
    """The utilization of cores by workload in an hour."""
    query = ComputeQuery(owner.organization_id, start, start + HOUR, HOUR, start + HOUR, ("workload_id",))
    rows = [compute_result(row, ("workload_id",)) for row in compute_sums(database, query)]
    return {row["workload_id"]: row.get("core_utilization") for row in rows}


def test_time_of_workloads_is_shown_with_what_they_held(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    now, taken = [float(START)], list[dict[str, float]]()
    recorder = AllocationRecorder(
        store,
        clock=lambda: now[0],
        take_times=lambda: taken.pop(0) if taken else {},
        add_times=partial(add_core_seconds, database),
    )
    job = Claim(owner.project_id, Kind.JOBS, {"cpu": 2000, "memory": 1 << 20})
    recorder.record("bj-1", job)
    recorder.record("bj-2", job)
    taken.append({"bj-1": 900.0, "bj-2": 0.5, "bj-unknown": 1e9})
    now[0] += 1000
    recorder.record("bj-1", None)  # what it used until its end is taken then
    now[0] += 1000
    recorder.close()
    deadline = time.monotonic() + 60
    while None in shown(database, owner).values() and time.monotonic() < deadline:
        time.sleep(0.1)  # on a busy machine it may write after it is closed
    assert shown(database, owner) == {"bj-1": pytest.approx(0.45), "bj-2": pytest.approx(0.5 / 4000, abs=1e-6)}


def test_a_span_over_a_full_hour_is_split(database: Database, store: Allocations, owner: KeyOwner) -> None:
    recorder = AllocationRecorder(store, clock=lambda: START + HOUR - 30.0)
    recorder.record("bj-1", Claim(owner.project_id, Kind.JOBS, {"cpu": 1000}))
    deadline = time.monotonic() + 60
    while not shown(database, owner) and time.monotonic() < deadline:
        time.sleep(0.1)  # it writes in a thread of its own
    job = Workload("batch_job", "bj-1", owner.project_id)
    for _ in range(2):
        add_core_seconds(database, {job: 20.0}, START + HOUR - 30.0, START + HOUR + 10.0)
    assert shown(database, owner) == {"bj-1": pytest.approx(1.0)}
    assert shown(database, owner, START + HOUR)["bj-1"] == pytest.approx(10 / HOUR, abs=1e-6)
    recorder.close()


def test_the_pages_of_the_three_exporters_are_read() -> None:
    reading = read_page(EXPORTED)
    assert reading is not None
    assert reading.gpus == pytest.approx(0.5 + 0.4 + 0.2 + 0.8 + 0.25), "MIG by its engines, a shared GPU once"
    assert reading.memory_mib == 2048 + 1024 + 1024 + 4096 + 1024


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html>",
        f'DCGM_FI_DEV_GPU_UTIL{{gpu="0"}} {BLANK}',
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"} NaN',
        'DCGM_FI_DEV_GPU_UTIL{gpu="0"} ' + "9" * 5000,
        'DCGM_FI_DEV_GPU_UTIL{gpu="0" 5',
        'DCGM_FI_DEV_GPU_UTIL{gpu="' + "0" * 5000 + '"} 5',
        "process_cpu_seconds_total 5",
    ],
)
def test_a_page_that_measures_no_gpu_is_none(page: str) -> None:
    assert read_page(page) is None


def test_a_page_of_long_words_is_read_in_seconds() -> None:
    page = ("DCGM_FI_DEV_GPU_UTIL{" + "w" * 4000 + "} 5\n") * 200
    began = time.process_time()
    assert read_page(page) == (0.05, 0.0)
    assert time.process_time() - began < 3, "it was 0.1 s a line"


def test_the_use_of_an_hour_is_the_average_and_the_most_of_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    pages = ["0", "100", None, "50"]

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            value = pages.pop(0)
            text = f'gpu_gfx_activity{{gpu_id="0"}} {value}\ngpu_used_vram{{gpu_id="0"}} 512\n'.encode()
            self.send_response(500 if value is None else 200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    now = [float(START)]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        exporter = GpuExporter(f"http://127.0.0.1:{server.server_port}/metrics", database, clock=lambda: now[0])
        for _ in range(4):
            exporter.look()
        server.shutdown()
    [use] = gpu_use_by_node(database, [""], START, START + 1)[START].values()
    assert (use.max_gpus, use.avg_gpus, use.avg_memory_mib) == (1.0, 0.5, 512.0)
    exporter.look()
    assert caplog.text.count("can't be read") == 2, "when it begins"
