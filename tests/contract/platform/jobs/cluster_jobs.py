"""Jobs on the test cluster, in a namespace of their own with a quota of their own."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmariner import __version__
from llmariner.errors import NotFound
from llmariner.platform.jobs import Job, JobStatus
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.objects import DataLink
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster
from llmariner.settings import ClusterSettings

from ...other_tests import kubectl as _kubectl
from ...other_tests import places as _places
from ...other_tests import processes as _processes

GPU_RESOURCE = "nvidia.com/gpu"
IMAGES = {"python": f"dev.local/llmariner/engine:{__version__}"}
PROGRAMS = """\
sleep() { python3 -c 'import sys, time; time.sleep(float(sys.argv[1]))' "$1"; }
cat() { python3 -c 'import sys; [sys.stdout.buffer.write(open(each, "rb").read()) for each in sys.argv[1:]]' "$@"; }
setsid() { python3 -c 'import os, sys, time; os.setsid(); time.sleep(float(sys.argv[1]))' "$2"; }
"""
"""The image has Python and a shell, and no other programs."""

Body = dict[str, Any]


class ClusterJobs(KubernetesJobs):
    """The adapter, which gives the commands of tests an image and the programs that they call."""

    def submit(self, job: Job) -> JobStatus:
        """See the port."""
        if job.image:
            return super().submit(job)
        return super().submit(replace(job, image="python", command=PROGRAMS + job.command))


def host_address() -> str:
    """Where pods of the test cluster reach a server of the test."""
    return str(_places.chosen().host_address)


@contextlib.contextmanager
def jobs_on_cluster(
    files: dict[str, bytes], *, memory: str = "450Mi", gpus: int = 0, **settings: Any
) -> Iterator[ClusterJobs]:
    """The adapter; skips where no cluster is up. `files`: contents by id, of the project `proj_1`.

    `memory`, `gpus`: of the pool, which has room for two jobs, and gets back by priority what projects borrow of it.
    """
    lab = _places.chosen()
    if "kubelet" not in _processes.running(lab):
        pytest.skip("no test cluster is up; `make cluster` starts it")
    name = f"test-jobs-{uuid.uuid4().hex[:6]}"
    _kubectl.apply(lab, _objects(name, memory, gpus))
    cluster = Cluster(ClusterSettings(lab.kubeconfig))
    with _serving(lab.host_address, files) as address:
        chosen: Body = {"cpu": "50m", "memory_bytes": 200 << 20, "disk_bytes": 24 << 20, "priority": name, **settings}
        made = ClusterJobSettings(namespace=name, queue="cpu", images=IMAGES, **chosen)
        try:
            yield ClusterJobs(cluster, made, partial(_links, address, files))
        finally:
            _kubectl.kubectl(lab, "delete", "namespace", name, "--wait=false")
            for kind in ("clusterqueue", "resourceflavor", "workloadpriorityclass"):
                _kubectl.kubectl(lab, "delete", kind, name, "--wait=false")
            _kubectl.kubectl(lab, "delete", "workloadpriorityclass", f"{name}-high", "--wait=false")
            cluster.close()


def _objects(name: str, memory: str, gpus: int) -> list[Body]:
    kueue, part_of = "kueue.x-k8s.io/v1beta2", {"kubernetes.io/metadata.name": name}
    amounts = {"cpu": "1", "memory": memory, **({GPU_RESOURCE: str(gpus)} if gpus else {})}
    quota = [{"name": each, "nominalQuota": amount} for each, amount in amounts.items()]
    group = {"coveredResources": list(amounts), "flavors": [{"name": name, "resources": quota}]}
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    pool = {
        "namespaceSelector": {"matchLabels": part_of},
        "queueingStrategy": "BestEffortFIFO",
        "cohortName": name,
        "preemption": {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "LowerPriority"},
        "resourceGroups": [group],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {"apiVersion": kueue, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": 100},
        {"apiVersion": kueue, "kind": "WorkloadPriorityClass", "metadata": {"name": f"{name}-high"}, "value": 200},
        {"apiVersion": kueue, "kind": "ResourceFlavor", "metadata": {"name": name}},
        {"apiVersion": kueue, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": pool},
        {
            "apiVersion": kueue,
            "kind": "LocalQueue",
            "metadata": {"name": "cpu", "namespace": name},
            "spec": {"clusterQueue": name},
        },
    ]


def _links(address: str, files: dict[str, bytes], job: Job) -> Sequence[DataLink]:
    if missing := [each.id for each in job.data_files if job.project_id != "proj_1" or each.id not in files]:
        raise NotFound(f"No such file: {missing[0]}.")
    return [DataLink(each.name, f"{address}/{each.id}") for each in job.data_files]


@contextlib.contextmanager
def _serving(address: str, files: dict[str, bytes]) -> Iterator[str]:
    """Serve the files at an address that pods reach; yields the base URL."""
    with ThreadingHTTPServer((address, 0), _handler(files.get)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://{address}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _handler(read: Callable[[str], bytes | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = read(self.path[1:])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
