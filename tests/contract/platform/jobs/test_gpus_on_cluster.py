"""Two workers with eight GPUs each on the test cluster, whose node says that it has sixteen: torchrun starts all processes.

No GPU is there: that a process finds its own, and that NCCL connects them, is not tested.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.platform.jobs import Job, Phase
from llmariner.platform.jobs.kubernetes.objects import JOB_LABEL
from llmariner.platform.kube.resources import PODS, WORKLOADS

from ...other_tests import kubectl as _kubectl
from ...other_tests import overlay as _overlay
from ...other_tests import places as _places
from .cluster_jobs import GPU_RESOURCE, IMAGES, ClusterJobs, jobs_on_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

WORKERS, GPUS = 2, 8
NAMES = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR")
SCRIPT = f"""\
import json, os, shutil
found = [*(os.environ[name] for name in {NAMES!r}), shutil.disk_usage("/dev/shm").total]
os.write(1, (json.dumps(found) + "\\n").encode())  # at once: all of a pod write to the same output
"""
MEMORY = 1 << 30
Body = dict[str, Any]


@contextlib.contextmanager
def said_gpus(number: int) -> Iterator[None]:
    """The cluster's node says that it has so many GPUs."""
    path = f"/status/{{}}/{GPU_RESOURCE.replace('/', '~1')}"

    def patch(operation: Body) -> None:
        operations = [{**operation, "path": path.format(each)} for each in ("capacity", "allocatable")]
        words = ("patch", "node", lab.name, "--subresource=status", "--type=json", "-p", json.dumps(operations))
        _kubectl.kubectl(lab, *words)

    lab = _places.chosen()
    patch({"op": "add", "value": str(number)})
    try:
        yield
    finally:
        patch({"op": "remove"})


@pytest.fixture
def jobs() -> Iterator[ClusterJobs]:
    """With room for one such job."""
    environment = {name: str(path) for name, path in _overlay._folders().items() if name != _overlay.MODELS}
    chosen: Body = {"gpu_resource": GPU_RESOURCE, "memory_bytes": MEMORY, "cpu": "400m"}
    chosen |= {"program_image": IMAGES["python"], "program_volumes": environment}
    with jobs_on_cluster({}, memory=str(2 * MEMORY), gpus=WORKERS * GPUS, **chosen) as made, said_gpus(WORKERS * GPUS):
        lab, namespace = _places.chosen(), made._settings.namespace
        folders = {name: path for name, path in _overlay._folders().items() if name in environment}
        volumes = [each for name, path in folders.items() for each in _overlay._volume(name, path, namespace)]
        _kubectl.apply(lab, volumes)
        try:
            yield made
        finally:
            claimed = [f"pv/{each['metadata']['name']}" for each in volumes if each["kind"] == "PersistentVolume"]
            _kubectl.kubectl(lab, "delete", "--wait=false", *claimed)


def test_torchrun_starts_a_process_for_each_gpu_of_both_workers(jobs: ClusterJobs) -> None:
    scripts = {"ranks.py": SCRIPT.encode()}
    job = Job("bj-gpus", "proj_1", "exec torchrun scripts/ranks.py", {}, scripts, gpu_count=GPUS, worker_count=WORKERS)
    super(ClusterJobs, jobs).submit(job)
    limit = time.monotonic() + 400
    while not (status := jobs.status(job.id)) or not status.phase.is_final:
        assert time.monotonic() < limit, status
        time.sleep(1)
    namespace = jobs._settings.namespace
    pods = jobs._cluster.list(PODS, namespace, labels={JOB_LABEL: job.id}).items
    said = [_kubectl.kubectl(_places.chosen(), "logs", "-n", namespace, each["metadata"]["name"]) for each in pods]
    assert status.phase is Phase.SUCCEEDED, (status, said)
    assert len(pods) == WORKERS
    for pod in pods:
        resources = pod["spec"]["containers"][0]["resources"]
        assert resources["limits"][GPU_RESOURCE] == resources["requests"][GPU_RESOURCE] == str(GPUS)
    (workload,) = jobs._cluster.list(WORKLOADS, namespace).items
    (admitted,) = workload["status"]["admission"]["podSetAssignments"]
    assert admitted["resourceUsage"][GPU_RESOURCE] == str(WORKERS * GPUS), "it is one for the quota"
    processes = [json.loads(line) for text in said for line in text.splitlines() if line.startswith("[")]
    size = str(WORKERS * GPUS)
    first = f"{job.id}-0.{job.id}.{namespace}.svc"
    assert sorted(processes, key=lambda each: int(each[0])) == [
        [str(rank), str(rank % GPUS), str(rank // GPUS), size, str(GPUS), str(WORKERS), first, MEMORY // 2]
        for rank in range(WORKERS * GPUS)
    ]
