"""How far held GPUs and cores are used: read by a real Prometheus from exporters, joined to allocations by pods."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import Unavailable
from llmariner.platform.database import Database
from llmariner.platform.prometheus import Prometheus
from llmariner.showback.allocations import Allocations
from llmariner.showback.exporters import HourOfUse, NodeUse, Pod, PodUse, read_hour
from llmariner.showback.installation import read_utilization
from llmariner.showback.reports import ComputeQuery, compute_sums
from llmariner.showback.representation import compute_result
from llmariner.showback.utilization import (
    HOUR,
    Use,
    gpu_use_by_node,
    prune_utilization,
    record_utilization,
    store_hour,
)
from llmariner.tenancy.keys.store import KeyOwner

from .steps import allocation

NAMESPACE = "llmariner-jobs"
STEP = 0.2
SCRAPED_SECONDS = 1.5
BLANK = 9223372036854775794
"""What dcgm-exporter writes where a GPU can't measure something."""

NVIDIA = 'pci_bus_id="00000000:07:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"'
HELD = f'container="main",namespace="{NAMESPACE}",pod="bj-1-x7k2p"'
MIG = 'gpu="4",UUID="GPU-4",GPU_I_PROFILE="1g.10gb"'
AMD = 'card_series="AMD Instinct MI300X OAM",hostname="node-2",container="",job_id=""'
GAUDI = 'Serial="AN1",device="AN1",id="0",fit="",spi="",driver="1.23.0-695"'
EXPORTED = f"""\
# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{{gpu="0",UUID="GPU-0",{NVIDIA},{HELD}}} 50
DCGM_FI_DEV_GPU_UTIL{{gpu="1",UUID="GPU-1",{NVIDIA},{HELD}}} 0
DCGM_FI_DEV_GPU_UTIL{{gpu="2",UUID="GPU-2",{NVIDIA},{HELD}}} {BLANK}
DCGM_FI_DEV_GPU_UTIL{{gpu="3",UUID="GPU-3",{NVIDIA},container="",namespace="",pod=""}} 0
DCGM_FI_DEV_GPU_UTIL{{{MIG},GPU_I_ID="7",{NVIDIA},namespace="{NAMESPACE}",pod="bj-3-mig"}} 0
DCGM_FI_DEV_GPU_UTIL{{gpu="5",UUID="GPU-5",{NVIDIA},namespace="{NAMESPACE}",pod="bj-4-one",vgpu="0"}} 20
DCGM_FI_DEV_GPU_UTIL{{gpu="5",UUID="GPU-5",{NVIDIA},namespace="{NAMESPACE}",pod="bj-5-two",vgpu="1"}} 20
# HELP DCGM_FI_PROF_GR_ENGINE_ACTIVE Ratio of time the graphics engine is active.
# TYPE DCGM_FI_PROF_GR_ENGINE_ACTIVE gauge
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{gpu="0",UUID="GPU-0",{NVIDIA},{HELD}}} 0.9
DCGM_FI_PROF_GR_ENGINE_ACTIVE{{{MIG},GPU_I_ID="7",{NVIDIA},namespace="{NAMESPACE}",pod="bj-3-mig"}} 0.4
# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{{gpu="0",UUID="GPU-0",{NVIDIA},{HELD}}} 2048
DCGM_FI_DEV_FB_USED{{gpu="1",UUID="GPU-1",{NVIDIA},{HELD}}} 1024
DCGM_FI_DEV_FB_USED{{gpu="5",UUID="GPU-5",{NVIDIA},namespace="{NAMESPACE}",pod="bj-4-one",vgpu="0"}} 1024
DCGM_FI_DEV_FB_USED{{gpu="5",UUID="GPU-5",{NVIDIA},namespace="{NAMESPACE}",pod="bj-5-two",vgpu="1"}} 1024
# TYPE gpu_gfx_activity gauge
gpu_gfx_activity{{{AMD},gpu_id="0",gpu_compute_partition_type="spx",namespace="{NAMESPACE}",pod="m-large-predictor-abc"}} 80
gpu_gfx_activity{{{AMD},gpu_id="1",gpu_compute_partition_type="CPX",namespace="{NAMESPACE}",pod="bj-6-part"}} 0
# TYPE gpu_used_vram gauge
gpu_used_vram{{{AMD},gpu_id="0",gpu_compute_partition_type="spx",namespace="{NAMESPACE}",pod="m-large-predictor-abc"}} 4096
# TYPE habanalabs_utilization gauge
habanalabs_utilization{{{GAUDI},UUID="01P0",pod_name="ftjob-1-0-q8rt2",pod_namespace="{NAMESPACE}"}} 25
habanalabs_utilization{{{GAUDI.replace("AN1", "AN2")},UUID="01P1",pod_name="",pod_namespace=""}} 0
# TYPE habanalabs_memory_used_bytes gauge
habanalabs_memory_used_bytes{{{GAUDI},UUID="01P0",pod_name="ftjob-1-0-q8rt2",pod_namespace="{NAMESPACE}"}} 1073741824
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{{namespace="{NAMESPACE}",pod="bj-1-x7k2p",container="main"}} CORES
container_cpu_usage_seconds_total{{namespace="{NAMESPACE}",pod="bj-1-x7k2p",container=""}} 9
"""
"""What dcgm-exporter 4, device-metrics-exporter 1.5 and gaudi-metric-exporter 1.23 write, with their labels."""


class Exporter(http.server.BaseHTTPRequestHandler):
    """Half a core is used from the start on."""

    started = time.time()

    def do_GET(self) -> None:
        text = EXPORTED.replace("CORES", f"{(time.time() - self.started) / 2:.3f}").encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        with contextlib.suppress(OSError):  # a scrape that took too long
            self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes an exporter as a PodMonitor would have it: with labels of its own."""
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("needs the program prometheus")
    folder: Path = tmp_path_factory.mktemp("prometheus")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Exporter) as exporter, socket.socket() as free:
        threading.Thread(target=exporter.serve_forever, daemon=True).start()
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        labels = "{namespace: gpu-operator, pod: exporter-1, container: exporter, node: node-3}"
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {round(STEP * 1000)}ms, scrape_timeout: {round(STEP * 1000)}ms}}\n"
            f"scrape_configs: [{{job_name: gpus, static_configs: [{{targets: ['127.0.0.1:{exporter.server_port}'], "
            f"labels: {labels}}}]}}]\n"
        )
        command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        started = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _await_samples(Prometheus(f"http://{address}"))
            yield f"http://{address}"
        finally:
            started.terminate()
            started.wait(30)
            exporter.shutdown()


def _await_samples(server: Prometheus) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = server.query("min_over_time(timestamp(gpu_gfx_activity)[1m:100ms])", time.time())
        except Unavailable:
            found = []
        if found and time.time() - found[0].value > SCRAPED_SECONDS + 9 * STEP:
            return
        time.sleep(0.05)
    raise AssertionError("Prometheus scraped nothing.")


def read(url: str) -> HourOfUse:
    """What was measured a moment ago; on a busy machine scrapes may come late."""
    deadline = time.monotonic() + 60
    while True:
        # Of a scrape that fails, Prometheus learns after its time limit: no query may be about a time so near.
        end = time.time() - 5 * STEP
        found = read_hour(Prometheus(url), end - SCRAPED_SECONDS, end, step_seconds=STEP)
        pods = {pod.name: use for pod, use in found.pods.items()}
        if len(found.nodes) == 3 and (pods["bj-1-x7k2p"].core_seconds or time.monotonic() > deadline):
            return found


def test_all_exporters_are_read_by_pod_and_by_node(prometheus: str) -> None:
    found = read(prometheus)
    job, model, training = (
        found.pods[Pod("", NAMESPACE, name)] for name in ("bj-1-x7k2p", "m-large-predictor-abc", "ftjob-1-0-q8rt2")
    )
    assert (job.busy / job.samples, job.idle / job.samples) == pytest.approx((0.25, 0.5))
    assert (model.busy / model.samples, model.idle) == pytest.approx((0.8, 0))
    assert training.busy / training.samples == pytest.approx(0.25)
    instance, *shared = (found.pods[Pod("", NAMESPACE, name)] for name in ("bj-3-mig", "bj-4-one", "bj-5-two"))
    assert instance.busy / instance.samples == pytest.approx(0.4), "of MIG, whose utilization is 0"
    assert instance.idle == 0
    assert [each.busy / each.samples for each in shared] == pytest.approx([0.2, 0.2]), "that of the GPU they share"
    assert Pod("", NAMESPACE, "bj-6-part") not in found.pods, "a partition's activity is not measured"
    assert job.core_seconds is not None
    assert 0 < job.core_seconds < 2 * SCRAPED_SECONDS
    assert model.core_seconds is None
    gib = {name: (round(use.max_gpus, 6), use.avg_memory_mib / 1024) for (_, name), use in found.nodes.items()}
    assert gib == {"node-1": (1.1, 4.0), "node-2": (0.8, 4.0), "node-3": (0.25, 1.0)}, (
        "a GPU that two share counts once"
    )


def test_shares_of_what_was_held_are_shown_with_it(
    prometheus: str, database: Database, store: Allocations, owner: KeyOwner
) -> None:
    now = time.time()
    hour = int(now) // HOUR * HOUR
    store.begin(allocation(owner, "a", hour, pods="bj-1-", amounts={"gpu": 2, "cpu": 1000}))
    store.begin(allocation(owner, "b", hour, pods="m-large-predictor-abc", kind="model", workload_id="large"))
    store.begin(allocation(owner, "c", hour, pods="bj-2-", workload_id="bj-2"))
    found = read(prometheus)
    # A pod of the same name, which somebody else made in a namespace of their own.
    others = {**found.pods, Pod("", "default", "bj-2-x"): PodUse(9, 9, 0, 9)}
    for _ in range(2):  # again changes nothing
        store_hour(database, hour, HourOfUse(others, found.nodes), {NAMESPACE})
    query = ComputeQuery(owner.organization_id, hour, hour + HOUR, HOUR, hour + HOUR, ("workload_id",))
    shown = {row["workload_id"]: compute_result(row, ("workload_id",)) for row in compute_sums(database, query)}
    job, model, unmeasured = (shown[name] for name in ("bj-1", "large", "bj-2"))
    assert (job["gpu_measured_seconds"], job["gpu_utilization"], job["gpu_idle_share"]) == (7200, 0.25, 0.5)
    used = found.pods[Pod("", NAMESPACE, "bj-1-x7k2p")].core_seconds
    assert job["core_utilization"] == pytest.approx((used or 0) / HOUR, abs=1e-6)
    assert (model["gpu_utilization"], "core_utilization" in model) == (0.8, False)
    assert not [name for name in unmeasured if "utilization" in name or "measured" in name], "absent, and not zero"
    [total] = compute_sums(database, ComputeQuery(owner.organization_id, hour, hour + HOUR, HOUR, hour + HOUR))
    # Two GPUs of each for an hour.
    assert compute_result(total, ())["gpu_utilization"] == pytest.approx((0.25 + 0.8) / 2)
    assert gpu_use_by_node(database, [""], hour, hour + 1)[hour]["", "node-2"].max_gpus == pytest.approx(0.8)
    assert gpu_use_by_node(database, ["cluster_1"], hour, hour + 1) == {}
    prune_utilization(database, older_than=-3 * HOUR)
    assert gpu_use_by_node(database, [""], hour, hour + 1) == {}


class Recorded(Prometheus):
    """A Prometheus that knows nothing, and at which times it was asked."""

    def __init__(self) -> None:
        super().__init__("http://unused")
        self.ends: set[float] = set()

    def query(self, expression: str, at: float) -> list[Any]:
        self.ends.add(at)
        return []


def test_hours_are_read_until_they_are_over_and_a_gap_is_made_up_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_800_000_000 // HOUR * HOUR + 600.0]
    hour = now[0] - 600
    monkeypatch.setattr(time, "time", lambda: now[0])

    def ends() -> list[float]:
        server = Recorded()
        record_utilization(database, server, (), seconds=60)
        return sorted(server.ends)

    assert ends() == [hour, hour + 600]
    assert ends() == [hour + 600]
    now[0] += 3 * HOUR
    assert ends() == [hour + HOUR, hour + 2 * HOUR, hour + 3 * HOUR, hour + 3 * HOUR + 600]
    now[0] += 100 * HOUR
    assert len(ends()) == 25
    server = Recorded()
    now[0] += 5 * HOUR
    record_utilization(database, server, (), seconds=0)
    assert len(server.ends) == 1, "the next sweep continues"


def test_series_of_a_worker_cluster_are_of_its_allocations_alone(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    hour = int(time.time()) // HOUR * HOUR
    for cluster in ("", "cluster_1"):
        store.begin(allocation(owner, f"{cluster}/a", hour, pods="bj-1-", cluster_id=cluster))
    uses = {Pod(cluster, NAMESPACE, "bj-1-x"): PodUse(10, busy, 0) for cluster, busy in (("", 1), ("cluster_1", 7))}
    nodes = {("cluster_1", "n"): NodeUse(1, 1, 1, 1)}
    store_hour(
        database, hour, HourOfUse({**uses, Pod("cluster_9", NAMESPACE, "bj-1-x"): PodUse(1, 1)}, nodes), {NAMESPACE}
    )
    query = ComputeQuery(owner.organization_id, hour, hour + HOUR, HOUR, hour + HOUR, ("cluster_id",))
    found = {row["cluster_id"]: row["use"].gpu_busy / row["use"].gpu_measured for row in compute_sums(database, query)}
    assert found == pytest.approx({"": 0.1, "cluster_1": 0.7})
    other = ComputeQuery("org_other", hour, hour + HOUR, HOUR, hour + HOUR)
    assert compute_sums(database, other) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"data": {"result": [{"metric": {}, "value": [1, "x"]}]}}',
        b'{"data": 1}',
        b"<html>",
        b'{"status":"error"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_prometheus_is_an_error_and_delays_nothing(
    answer: bytes, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(Exporter):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(Unavailable, match="something else"):
            Prometheus(url).query("up", 1.0)
        read_utilization({"LLMARINER_PROMETHEUS_URL": url}, database, seconds=5)
        server.shutdown()
    assert "is not read now" in caplog.text


@contextlib.contextmanager
def saying(answer: Callable[[str], bytes]) -> Iterator[str]:
    """The address of what answers each query so."""

    class Server(Exporter):
        def do_POST(self) -> None:
            text = answer(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(200)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def vector(*samples: tuple[dict[str, str], str]) -> bytes:
    result = [{"metric": labels, "value": [1, value]} for labels, value in samples]
    return json.dumps({"status": "success", "data": {"result": result}}).encode()


def test_what_one_cluster_sends_holds_up_no_other_and_breaks_no_report(
    database: Database, store: Allocations, owner: KeyOwner
) -> None:
    hour = int(time.time()) // HOUR * HOUR
    store.begin(allocation(owner, "c/a", hour, pods="bj-1-", cluster_id="cluster_1", amounts={"cpu": 1000}))
    pod = {"namespace": NAMESPACE, "llmariner_cluster": "cluster_1"}
    cores = vector(
        *(({**pod, "pod": f"bj-1-{end}"}, value) for end, value in (("a", "1.7e308"), ("b", "1.7e308"), ("c", "60")))
    )
    names = ("a\0b", "a\ud800", "a\x1b[2J", "good")
    nodes = vector(
        *(({"Hostname": name, "llmariner_cluster": "cluster_1"}, "50") for name in names),
        *(({"Hostname": "n", "llmariner_cluster": "c" * 64 + end}, "50") for end in "ab"),
    )
    with saying(lambda query: cores if "container_cpu" in query else nodes if "DCGM" in query else vector()) as url:
        store_hour(database, hour, read_hour(Prometheus(url), hour, hour + 60), {NAMESPACE})
    assert list(gpu_use_by_node(database, ["cluster_1"], hour, hour + 1)[hour]) == [("cluster_1", "good")]
    [row] = compute_sums(database, ComputeQuery(None, hour, hour + HOUR, HOUR, hour + HOUR))
    assert compute_result(row, ())["core_utilization"] == pytest.approx(60 / HOUR, abs=1e-6)


def test_a_slow_prometheus_takes_no_more_time_than_a_sweep_has(database: Database) -> None:
    asked: list[str] = []

    def slowly(query: str) -> bytes:
        asked.append(query)
        time.sleep(0.05)
        return vector(({"Hostname": "n"}, "1"))

    with saying(slowly) as url:
        read_utilization({"LLMARINER_PROMETHEUS_URL": url}, database, seconds=0.04)
    assert 1 <= len(asked) <= 4, "an hour takes more than twenty"


def test_a_head_without_an_end_is_left() -> None:
    class Trickle(Exporter):
        def do_POST(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
                while True:
                    self.wfile.write(b"a")
                    time.sleep(0.02)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(Unavailable, match="does not answer"):
            Prometheus(f"http://127.0.0.1:{server.server_port}", seconds=0.2).query("up", 1.0)
        server.shutdown()


def test_without_the_setting_nothing_is_read(database: Database) -> None:
    read_utilization({}, database, seconds=5)
    assert Use().gpu_measured == 0
