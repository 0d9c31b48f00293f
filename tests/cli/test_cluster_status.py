"""`llma cluster status`: functions, models, queues, events and nodes of a cluster."""

from __future__ import annotations

import importlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.platform.kube.quantities import parse_quantity

if TYPE_CHECKING:
    from cli.conftest import Llma, Result
    from cli.fake_cluster import Body, FakeCluster

_fake_cluster = importlib.import_module(".fake_cluster", __package__)
conditions_status = _fake_cluster.conditions_status

Look = Callable[..., "Result"]
PLATFORM, MODELS = "llmariner", "llmariner-models"
FUNCTION = "Service.serving.knative.dev"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeCluster]:
    """One for all tests of this file."""
    made: FakeCluster = _fake_cluster.FakeCluster()
    with made.server:
        yield made


@pytest.fixture
def healthy_cluster(server: FakeCluster) -> FakeCluster:
    """All is well on it."""
    server.reset()
    return server


@pytest.fixture
def kubeconfig(server: FakeCluster, tmp_path: Path) -> str:
    return str(server.server.kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture
def look(bare_llma: Llma, kubeconfig: str) -> Look:
    """Runs `llma cluster status` against it."""
    return lambda *words: bare_llma("cluster", "status", "--kubeconfig", kubeconfig, *words)


def named(records: list[dict[str, Any]], name: str, key: str = "name") -> dict[str, Any]:
    return next(each for each in records if each[key] == name)


def model(healthy_cluster: FakeCluster, name: str, replicas: int, *pods: Body) -> None:
    """An InferenceService as KServe leaves it, with its Deployment and pods."""
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    predictor: Body = {"model": {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://meta/tiny"}}
    annotations = {"llmariner.ai/model": f"meta/{name}"}
    metadata = {"name": name, "namespace": MODELS, "annotations": annotations}
    healthy_cluster.create({**kind, "metadata": metadata, "spec": {"predictor": predictor}})
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "kserve-container", "image": "x"}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    placed = {"name": f"{name}-predictor", "namespace": MODELS}
    healthy_cluster.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": placed, "spec": spec})
    for number, status in enumerate(pods):
        labels = {"serving.kserve.io/inferenceservice": name}
        metadata = {"name": f"{name}-{number}", "namespace": MODELS, "labels": labels}
        healthy_cluster.create(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": status}
        )


def workload(name: str, **conditions: str) -> Body:
    """A Workload of Kueue; `conditions`: what is said of each that does not hold."""
    held = [conditions_status(kind, status="False", message=said)["conditions"][0] for kind, said in conditions.items()]
    sets = [{"name": "main", "count": 1, "template": {"spec": {"containers": [{"name": "x", "image": "x"}]}}}]
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {"name": name, "namespace": MODELS},
        "spec": {"queueName": "cpu", "podSets": sets},
        "status": {"conditions": held} if held else conditions_status("QuotaReserved"),
    }


def test_every_part_is_shown(healthy_cluster: FakeCluster, look: Look) -> None:
    healthy_cluster.set_status(
        FUNCTION, f"{PLATFORM}/models", conditions_status("Ready", status="False", message="no image")
    )
    deployment = f"{PLATFORM}/chat-completions-00001-deployment"
    healthy_cluster.modify("Deployment", deployment, lambda old: old.update(replicas=3, readyReplicas=3), status=True)
    healthy_cluster.set_status(
        "Trigger", f"{PLATFORM}/sweep", conditions_status("Ready", status="False", message="no subscriber")
    )
    healthy_cluster.modify("Node", "node-1", lambda old: old["allocatable"].update({"amd.com/gpu": "4"}), status=True)
    shown = look("-o", "json").json
    chat = {"name": "chat-completions", "state": "ready", "replicas": 3, "revision": "chat-completions-00001"}
    bounds = {"min": 0, "max": 20, "message": ""}
    assert named(shown["functions"], "chat-completions") == chat | bounds
    models = named(shown["functions"], "models")
    assert (models["state"], models["message"], models["revision"]) == ("not ready", "Fine: no image", None)
    sweep = named([each for each in shown["events"] if each["kind"] == "Trigger"], "sweep")
    assert (sweep["state"], sweep["message"]) == ("not ready", "Fine: no subscriber")
    (node,) = shown["nodes"]
    assert node == {
        "name": "node-1",
        "state": "ready",
        "cpu": "7.91",
        "memory_bytes": 32 << 30,
        "accelerators": "4 amd.com/gpu",
        "message": "",
    }
    assert shown["unreadable"] == {}


def test_models_have_the_phases_that_waiting_requests_get(healthy_cluster: FakeCluster, look: Look) -> None:
    loading = {"containerStatuses": [{"name": "kserve-container", "ready": False, "restartCount": 0,
               "image": "x", "imageID": "", "state": {"running": {}}}]}  # fmt: skip
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.7"}
    unplaced = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: insufficient cpu"}
    model(healthy_cluster, "asleep", 0)
    model(healthy_cluster, "ready", 2, ready, loading)
    model(healthy_cluster, "loading", 1, loading)
    model(healthy_cluster, "unplaced", 1, {"conditions": [unplaced]})
    shown = look("-o", "json").json["models"]
    assert {each["name"]: (each["id"], each["phase"], each["replicas"]) for each in shown} == {
        "asleep": ("meta/asleep", "asleep", "0/0"),
        "ready": ("meta/ready", "ready", "1/2"),
        "loading": ("meta/loading", "loading", "0/1"),
        "unplaced": ("meta/unplaced", "queued", "0/1"),
    }
    assert named(shown, "unplaced")["message"] == "waiting for a node: 0/1 nodes: insufficient cpu"


def test_models_that_wait_for_quota_are_listed_in_order(healthy_cluster: FakeCluster, look: Look) -> None:
    healthy_cluster.create(workload("first", QuotaReserved="insufficient quota for cpu"))
    healthy_cluster.create(workload("admitted"))
    healthy_cluster.create(workload("second", QuotaReserved="waits for first"))
    status = conditions_status("Active") | {"pendingWorkloads": 2, "admittedWorkloads": 1, "reservingWorkloads": 1}
    healthy_cluster.set_status("LocalQueue", f"{MODELS}/cpu", status)
    shown = look("-o", "json").json
    assert [(each["workload"], each["message"]) for each in shown["waiting"]] == [
        ("first", "insufficient quota for cpu"),
        ("second", "waits for first"),
    ]
    (queue,) = shown["queues"]
    assert queue == {"name": "cpu", "cluster_queue": "llmariner-cpu", "pending": 2, "admitted": 1, "message": ""}


def test_the_tables_have_titles_and_placeholders(healthy_cluster: FakeCluster, look: Look) -> None:
    result = look()
    assert (result.code, result.err) == (0, "")
    parts = dict(part.split("\n", 1) for part in result.out.strip().split("\n\n"))
    assert list(parts) == ["FUNCTIONS", "MODELS", "QUEUES", "WAITING", "EVENTS", "NODES"]
    assert parts["MODELS"] == "none"
    assert re.search(r"^chat-completions +ready +1 +chat-completions-00001 +0 +20 +-", parts["FUNCTIONS"], re.M)
    assert re.search(r"^node-1 +ready +7\.91 +32\.0 GiB +-", parts["NODES"], re.M)


def test_an_empty_cluster_has_empty_tables(server: FakeCluster, look: Look) -> None:
    server.clear(without=lambda kind: kind.custom)
    shown = look("-o", "json")
    assert shown.json == {"unreadable": {}, **{part: [] for part in ("functions", "models", "queues")},
                          **{part: [] for part in ("waiting", "events", "nodes")}}  # fmt: skip
    assert shown.code == 0


def test_an_unreadable_part_is_reported_in_its_table(healthy_cluster: FakeCluster, look: Look) -> None:
    healthy_cluster.server.forbid("list nodes")
    assert "cannot list resource 'nodes'" in look("-o", "json").json["unreadable"]["nodes"]
    result = look()
    assert "kubectl auth can-i list nodes" in result.out.split("NODES\n")[1]
    assert result.code == 0


def test_watching_redraws_survives_server_failures_and_ends_with_ctrl_c(
    healthy_cluster: FakeCluster, kubeconfig: str, home: Path, program: list[str]
) -> None:
    words = ["cluster", "status", "--kubeconfig", kubeconfig, "--watch", "--interval", "0.5"]
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [*program, *words], stdin=terminal, stdout=terminal, stderr=terminal, env={**os.environ, "COLUMNS": "140"}
    )
    os.close(terminal)
    try:
        seen_until(keyboard, b"ctrl-C ends")
        healthy_cluster.set_status(
            FUNCTION, f"{PLATFORM}/models", conditions_status("Ready", status="False", message="a new fault")
        )
        seen_until(keyboard, b"a new fault")
        healthy_cluster.server.stop()
        seen_until(keyboard, b"Still trying")
        healthy_cluster.server.start()
        seen_until(keyboard, b"ctrl-C ends")
        process.send_signal(signal.SIGINT)
        assert ended(process, keyboard) == 130
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)


def ended(process: subprocess.Popen[bytes], keyboard: int, seconds: float = 60) -> int | None:
    """The exit status, None if it still runs then. What it draws is read, or it would wait for its terminal."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if select.select([keyboard], [], [], 0.1)[0]:
            with suppress(OSError):  # EIO: the program has closed its terminal
                os.read(keyboard, 65536)
    return process.returncode


def seen_until(keyboard: int, words: bytes, seconds: float = 30) -> None:
    """Reads what is drawn until the words come. AssertionError: they didn't."""
    seen, end = b"", time.monotonic() + seconds
    while words not in seen:
        there, _, _ = select.select([keyboard], [], [], max(0.0, end - time.monotonic()))
        assert there, seen.decode(errors="replace")[-2000:]
        seen += os.read(keyboard, 65536)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", 0.25),
        ("8", 8.0),
        (4, 4.0),
        ("1.5", 1.5),
        ("16Gi", 16 * 2.0**30),
        ("128974848", 128974848.0),
        ("129e6", 129e6),
        ("123Mi", 123 * 2.0**20),
        ("1k", 1000.0),
        ("2E", 2e18),
        ("", 0.0),
        ("many", 0.0),
        ("1.2.3", 0.0),
        (None, 0.0),
    ],
)
def test_quantities_are_parsed_as_kubernetes_does(text: object, value: float) -> None:
    assert parse_quantity(text) == pytest.approx(value)
