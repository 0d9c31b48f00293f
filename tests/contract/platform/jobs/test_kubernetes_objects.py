"""Jobs against an API server without controllers: what is asked of it, and what a killed process leaves."""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmariner.errors import NotFound
from llmariner.job_settings import JobSettings
from llmariner.model_file_names import PATTERNS
from llmariner.platform.jobs import DataFile, Job, Phase
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.container_scripts import TERMINATED
from llmariner.platform.jobs.kubernetes.objects import (
    ENDED,
    JOB_LABEL,
    SUBMITTED,
    DataLink,
    job_object,
    owned_objects,
)
from llmariner.platform.jobs.kubernetes.settings import (
    ClusterJobSettings,
    load_cluster_settings,
    worker_cluster_settings,
)
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError, Invalid
from llmariner.platform.kube.resources import (
    JOBS,
    LOCAL_QUEUES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    SECRETS,
    SERVICES,
    WORKLOADS,
)
from llmariner.settings import ClusterSettings

from ...killed_process import Killed

if TYPE_CHECKING:
    from kubernetes_api import schemas as _schemas
    from kubernetes_api import server as _server
else:
    _schemas, _server = (
        importlib.import_module(f"....kubernetes_api.{name}", __package__) for name in ("schemas", "server")
    )

NAMESPACE = "llmariner-jobs"
SETTINGS = ClusterJobSettings(
    namespace=NAMESPACE, queue="cpu", images={"pytorch": "pytorch:2"}, gpu_resource="nvidia.com/gpu"
)
JOB = Job(
    "bj-1",
    "proj_1",
    'echo "$(HOSTNAME)"',
    {"LR": "0.1"},
    {"train.py": b"\xff"},
    (DataFile("file-1", "it's -o.txt", 6),),
    image="pytorch",
    gpu_count=2,
    worker_count=3,
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    crds = _schemas.folder()
    with _server.ApiServer(_schemas.Schemas(crds), crds) as running:
        made = Cluster(ClusterSettings(running.kubeconfig(tmp_path / "kubeconfig")))
        made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        queue = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
        metadata = {"name": "cpu", "namespace": NAMESPACE}
        made.create({**queue, "metadata": metadata, "spec": {"clusterQueue": "llmariner-cpu"}})
        assert made.get(NAMESPACES, None, NAMESPACE)
        yield made
        made.close()


def jobs_on(cluster: Cluster, settings: ClusterJobSettings = SETTINGS) -> KubernetesJobs:
    def links(job: Job) -> list[DataLink]:
        if job.project_id != "proj_1":
            raise NotFound("No such file.")
        return [DataLink(each.name, f"http://files/{each.id}?link=secret") for each in job.data_files]

    return KubernetesJobs(cluster, settings, links)


def found(cluster: Cluster, name: str = "bj-1") -> dict[str, Any]:
    body = cluster.get(JOBS, NAMESPACE, name)
    assert body is not None
    return body


def test_a_job_is_suspended_in_its_projects_queue_without_any_credential(cluster: Cluster) -> None:
    status = jobs_on(cluster).submit(JOB)
    assert (status.phase, status.reason) == (Phase.QUEUED, "It is about to enter its queue.")
    made, pod = found(cluster), found(cluster)["spec"]["template"]["spec"]
    (queue,) = [each for each in cluster.list(LOCAL_QUEUES, NAMESPACE).items if each["metadata"]["name"] != "cpu"]
    assert queue["metadata"]["annotations"] == {"llmariner.ai/project": "proj_1"}
    labels = made["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert labels["kueue.x-k8s.io/priority-class"] == "llmariner-jobs"
    assert made["spec"]["suspend"] is True
    assert (made["spec"]["completionMode"], made["spec"]["completions"], made["spec"]["parallelism"]) == (
        "Indexed",
        3,
        3,
    )
    assert (pod["automountServiceAccountToken"], pod["subdomain"]) == (False, "bj-1")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(2 << 30)}} in pod["volumes"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        limits, requests = (dict(container["resources"][each]) for each in ("limits", "requests"))
        assert (limits.pop("ephemeral-storage"), requests.pop("ephemeral-storage")) == (str(4 << 30), "0")
        assert limits == requests
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["containers"][0]["command"][4] == 'echo "$$(HOSTNAME)"', "the kubelet expands no variables in it"
    assert "secret" not in json.dumps(pod["containers"]).replace("secretRef", "").lower().replace("secretname", "")
    environment = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert environment["MASTER_ADDR"] == "bj-1-0.bj-1.llmariner-jobs.svc"
    assert (environment["WORLD_SIZE"], environment["PET_NPROC_PER_NODE"]) == ("3", "2")


NONSENSE: list[dict[str, Any]] = [
    *({"since": each} for each in (float("nan"), float("inf"), 1e308, -1, "now", None, [1])),
    *({"code": each} for each in ("c" * 65, "a\0", 5, None)),
    *({"reason": each} for each in (7, None)),
    {"phase": "done"},
]


def test_a_job_whose_annotations_say_nonsense_is_an_answer_that_can_not_be_had(cluster: Cluster) -> None:
    jobs = jobs_on(cluster)
    jobs.cancel("bj-1")
    said = json.loads(found(cluster)["metadata"]["annotations"][ENDED])
    for text in ("{", "[]", "5", *(json.dumps({**said, **each}) for each in NONSENSE)):
        cluster.merge_patch(JOBS, NAMESPACE, "bj-1", {"metadata": {"annotations": {ENDED: text}}})
        with pytest.raises(ClusterError, match="Ask its administrator"):
            jobs.status("bj-1")
    jobs.submit(replace(JOB, id="bj-2"))
    for text, ask in (*((each, jobs.status) for each in ("soon", "nan", "inf", "1e308")), ("soon", jobs.cancel)):
        cluster.merge_patch(JOBS, NAMESPACE, "bj-2", {"metadata": {"annotations": {SUBMITTED: text}}})
        with pytest.raises(ClusterError, match="Ask its administrator"):
            ask("bj-2")


def test_all_that_a_job_needs_goes_with_it(cluster: Cluster) -> None:
    jobs = jobs_on(cluster)
    jobs.submit(JOB)
    names = {each["metadata"]["name"] for each in cluster.list(SECRETS, NAMESPACE).items}
    assert names == {"bj-1-environment", "bj-1-scripts", "bj-1-data"}
    assert [each["metadata"]["name"] for each in cluster.list(SERVICES, NAMESPACE).items] == ["bj-1"]
    (policy,) = cluster.list(NETWORK_POLICIES, NAMESPACE).items
    assert policy["spec"]["policyTypes"] == ["Ingress"], "without another policy it takes no names from workers"
    jobs.remove("bj-1")
    for kind in (JOBS, SECRETS, SERVICES):
        assert cluster.list(kind, NAMESPACE).items == []
    jobs.submit(JOB)
    jobs.cancel("bj-1")
    assert [cluster.list(kind, NAMESPACE).items for kind in (SECRETS, SERVICES)] == [[], []]
    assert jobs.submit(JOB).phase is Phase.CANCELED


@pytest.mark.parametrize("killed", [False, True])
def test_the_workload_of_a_canceled_job_goes_although_there_is_a_job_of_its_name(
    cluster: Cluster, killed: bool
) -> None:
    jobs, whole = jobs_on(cluster), cluster.create
    jobs.submit(JOB)
    job = found(cluster)["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "bj-1", "uid": job["uid"], "controller": True}
    metadata = {
        "name": "job-bj-1-59a98",
        "namespace": NAMESPACE,
        "labels": {"kueue.x-k8s.io/job-uid": job["uid"]},
        "finalizers": ["kueue.x-k8s.io/resource-in-use", "example.com/kept"],
        "ownerReferences": [owner],
    }
    workload = {"apiVersion": WORKLOADS.api_version, "kind": "Workload", "metadata": metadata, "spec": {}}
    cluster.create(workload)
    if killed:

        def create(body: dict[str, Any]) -> dict[str, Any]:
            raise Killed

        cluster.create = create  # type: ignore[method-assign,assignment]
        with pytest.raises(Killed):
            jobs.cancel("bj-1")
        cluster.create = whole  # type: ignore[method-assign]
    jobs.cancel("bj-1")
    assert found(cluster)["metadata"]["uid"] != job["uid"]
    assert [each["metadata"]["finalizers"] for each in cluster.list(WORKLOADS, NAMESPACE).items] == [
        ["example.com/kept"]
    ]


def test_who_is_killed_while_submitting_leaves_a_job_that_does_not_start_and_is_completed(cluster: Cluster) -> None:
    whole = cluster.create
    for step in range(5):

        def create(body: dict[str, Any], *, step: int = step, done: list[int] = []) -> dict[str, Any]:  # noqa: B006
            if len(done) == step:
                done.clear()
                raise Killed
            done.append(1)
            return whole(body)

        cluster.create = create  # type: ignore[method-assign,assignment]
        with pytest.raises(Killed):
            jobs_on(cluster).submit(JOB)
        cluster.create = whole  # type: ignore[method-assign]
        assert jobs_on(cluster).status("bj-1") is None
        if step:
            assert "kueue.x-k8s.io/queue-name" not in found(cluster)["metadata"]["labels"]
    assert jobs_on(cluster).submit(JOB).phase is Phase.QUEUED
    assert len(cluster.list(SECRETS, NAMESPACE).items) == 3


def test_a_job_that_is_canceled_while_it_is_submitted_stays_canceled(cluster: Cluster) -> None:
    jobs, whole = jobs_on(cluster), cluster.merge_patch

    def cancel_first(*arguments: Any, **more: Any) -> Any:
        jobs.cancel("bj-1")
        return whole(*arguments, **more)

    cluster.merge_patch = cancel_first  # type: ignore[method-assign]
    assert jobs.submit(JOB).phase is Phase.CANCELED
    assert "kueue.x-k8s.io/queue-name" not in found(cluster)["metadata"]["labels"]


def test_without_kueue_a_job_begins_at_once(cluster: Cluster) -> None:
    jobs = jobs_on(cluster, ClusterJobSettings(namespace=NAMESPACE, images={"pytorch": "pytorch:2"}))
    status = jobs.submit(Job("bj-2", "proj_1", "true", image="pytorch"))
    assert (status.phase, status.reason) == (Phase.QUEUED, "Its pod is started.")
    assert found(cluster, "bj-2")["spec"]["suspend"] is False


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (Job("bj-3", "proj_1", "true", image="gone"), "image_unavailable"),
        (
            Job("bj-3", "proj_2", "true", data_files=(DataFile("file-1", "a", 1),), image="pytorch"),
            "data_file_unavailable",
        ),
        (Job("bj-3", "proj_1", "true", {"LARGE": "x"}, image="pytorch"), "start_failed"),
    ],
    ids=["image", "file", "refused"],
)
def test_what_can_never_start_has_failed_for_good(cluster: Cluster, job: Job, code: str) -> None:
    jobs, whole = jobs_on(cluster), cluster.create

    def refuse(body: dict[str, Any]) -> dict[str, Any]:
        if body["kind"] == "Secret":
            raise Invalid("Too long: may not be more than 1048576 bytes")
        return whole(body)

    cluster.create = refuse  # type: ignore[method-assign,assignment]
    assert jobs.submit(job).code == code
    status = jobs_on(cluster).status("bj-3")
    assert status is not None
    assert (status.phase, status.code) == (Phase.FAILED, code)
    assert jobs.submit(job) == status
    jobs.cancel("bj-3")
    assert jobs.status("bj-3") == status


def test_a_cancel_while_a_webhook_is_away_ends_the_job_and_is_completed_later(cluster: Cluster) -> None:
    jobs, create = jobs_on(cluster), cluster.create
    jobs.submit(JOB)

    def refused(*_: Any, **__: Any) -> Any:
        raise ClusterError("failed calling webhook mjob.kb.io: connection refused")

    cluster.create = refused  # type: ignore[method-assign]
    with pytest.raises(ClusterError):
        jobs.cancel("bj-1")
    assert cluster.get(JOBS, NAMESPACE, "bj-1") is None
    cluster.create = create  # type: ignore[method-assign]
    jobs.cancel("bj-1")
    status = jobs.status("bj-1")
    assert status is not None
    assert status.phase is jobs.submit(JOB).phase is Phase.CANCELED


def test_a_job_that_can_not_start_stays_a_failure_also_if_a_process_is_killed_that_ends_it(cluster: Cluster) -> None:
    jobs = jobs_on(cluster, ClusterJobSettings(namespace=NAMESPACE, images={"pytorch": "pytorch:2"}))
    jobs.submit(Job("bj-4", "proj_1", "true", image="pytorch"))
    waiting = {"waiting": {"reason": "InvalidImageName", "message": "no such name"}}
    container = {"name": "job", "ready": False, "restartCount": 0, "image": "pytorch:2", "imageID": ""}
    status = {"containerStatuses": [{**container, "state": waiting}], "startTime": "2026-01-01T00:00:00Z"}
    metadata = {"namespace": NAMESPACE, "name": "bj-4-x", "labels": {JOB_LABEL: "bj-4"}}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}})
    path = f"{PODS.path(NAMESPACE, 'bj-4-x')}/status"
    cluster._connection.request("PATCH", path, None, {"status": status}, "application/merge-patch+json")
    before = jobs.status("bj-4")
    assert before is not None
    assert (before.phase, before.code) == (Phase.FAILED, "image_unavailable")
    patch = cluster.merge_patch

    def killed_after(*arguments: Any, **more: Any) -> Any:
        patch(*arguments, **more)
        raise KeyboardInterrupt

    cluster.merge_patch = killed_after  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        jobs.cancel("bj-4")
    cluster.merge_patch = patch  # type: ignore[method-assign]
    for _ in range(2):
        after = jobs.status("bj-4")
        assert after is not None
        assert (after.phase, after.code, after.reason) == (before.phase, before.code, before.reason)
        assert found(cluster, "bj-4")["spec"]["activeDeadlineSeconds"] == 1, "nothing waits for the image any more"
        jobs.cancel("bj-4")


def run_as_pod(command: str, image: str = "pytorch") -> int:
    """The exit code of what a pod's container runs, here."""
    settings = ClusterJobSettings(images={"pytorch": "pytorch:2"})
    made = job_object(Job("bj-5", "proj_1", command, image=image), "pytorch:2", settings)
    argv = [each.replace("$$", "$") for each in made["spec"]["template"]["spec"]["containers"][0]["command"]]
    return subprocess.run(argv, env={"PATH": "/usr/bin:/bin"}, check=False, timeout=60).returncode


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("true", 0), (f"exit {TERMINATED}", 1)])
def test_a_command_can_not_end_like_one_that_the_cluster_ended(command: str, code: int) -> None:
    assert run_as_pod(command) == code


def test_a_program_of_the_platform_that_lost_another_worker_ends_like_one_that_the_cluster_ended() -> None:
    assert run_as_pod(f"exit {TERMINATED}", image="") == TERMINATED
    assert run_as_pod("exit 7", image="") == 7


def test_no_data_file_is_a_module_of_what_fetches_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("pumps")
    links = [DataLink(name, source.as_uri()) for name in ("random.py", "socket.py", "urllib.py", "pumps")]
    made = job_object(JOB, "pytorch:2", SETTINGS)
    made["metadata"]["uid"] = "1"
    (secret,) = [each for each in owned_objects(JOB, made, links) if each["metadata"]["name"] == "bj-1-data"]
    script = base64.b64decode(secret["data"]["fetch"]).decode().replace("cd /data", f"cd {tmp_path}")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(programs)}, check=False, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "pumps").read_text() == "pumps"


def test_a_pod_has_the_priority_of_home_and_trusts_the_authority_of_a_worker_cluster(
    cluster: Cluster,
) -> None:
    home = load_cluster_settings({}, JobSettings.load({"LLMARINER_JOB_PRIORITY_CLASS": "llmariner-jobs"}))
    pod = job_object(JOB, "pytorch:2", home)["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "llmariner-jobs"
    assert "authority" not in str(pod)
    there = worker_cluster_settings(
        {},
        JobSettings.load({"LLMARINER_JOB_PRIORITY_CLASS": "llmariner-jobs"}),
        cluster,
        gpus=True,
        resources=[],
        output_url="https://llm.example.org",
    )
    pod = job_object(JOB, "pytorch:2", there)["spec"]["template"]["spec"]
    assert "priorityClassName" not in pod
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "authority"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "authority"]
    assert volume["configMap"] == {"name": "llmariner-control-plane", "optional": True}
    assert {each["name"]: each.get("value") for each in container["env"]}["LLMARINER_AUTHORITY_FILE"].startswith(
        mount["mountPath"]
    )
    with pytest.raises(ValueError, match="name of a priority class"):
        JobSettings.load({"LLMARINER_JOB_PRIORITY_CLASS": "Most Important"})


PROGRAMS = ClusterJobSettings(
    namespace=NAMESPACE,
    queue="cpu",
    program_image="llmariner/engine:1",
    program_volumes={"engine": "/opt/engine"},
    hub="https://hub.example",
)


@pytest.mark.parametrize(
    ("weights", "brief", "fetched"),
    [
        ("pvc://models/smol", False, None),
        ("hf://org/smol:abc", False, ["hf://org/smol:abc", "/mnt/models", *PATTERNS, "*.safetensors"]),
        ("hf://org/$(HOME)", True, ["hf://org/$$(HOME)", "/mnt/models", *PATTERNS]),
    ],
)
def test_a_program_of_the_platform_finds_a_models_weights_and_holds_no_credential(
    cluster: Cluster, weights: str, brief: bool, fetched: list[str] | None
) -> None:
    job = Job("ftjob-1-0", "proj_1", "true", weights=weights, weights_bytes=1 << 30, brief=brief, worker_count=2)
    assert jobs_on(cluster, PROGRAMS).submit(job).phase is Phase.QUEUED
    spec = found(cluster, job.id)["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert container["image"] == "llmariner/engine:1"
    assert volumes["claim-engine"]["persistentVolumeClaim"] == {"claimName": "engine", "readOnly": True}
    assert mounts["/opt/engine"]["readOnly"] is mounts["/mnt/models"]["readOnly"] is True
    assert "OMP_NUM_THREADS" in {each["name"] for each in container["env"]}
    limits = container["resources"]["limits"]
    assert (int(limits["memory"]) >> 30, spec["activeDeadlineSeconds"]) == ((1, 3600) if brief else (4, 86_400))
    if fetched is None:
        assert volumes["weights"]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        assert mounts["/mnt/models"]["subPath"] == "smol"
        assert "initContainers" not in pod
        return
    (first,) = pod["initContainers"]
    assert first["command"][3:] == fetched
    assert {each["name"]: each["value"] for each in first["env"]} == {
        "HOME": "/tmp",
        "HF_ENDPOINT": "https://hub.example",
    }
    assert first["securityContext"] == container["securityContext"]
    assert int(volumes["weights"]["emptyDir"]["sizeLimit"]) == (
        256 << 20 if brief else (1 << 30) * 5 // 4 + (256 << 20)
    )
    assert int(limits["ephemeral-storage"]) > 4 << 30


@pytest.mark.parametrize("weights", ["model-copy://mcopy_1", "s3://models/smol"])
def test_weights_of_a_store_are_fetched_by_a_program_of_the_job_and_no_credential(
    cluster: Cluster, weights: str
) -> None:
    what = {"scripts": {"training.zip": b"zip"}, "environment": {"TOKEN": "of the job"}, "weights_bytes": 1 << 30}
    job = Job("ftjob-1-0", "proj_1", "true", weights=weights, weights_command='fetch "$1"', **what)  # type: ignore[arg-type]
    jobs_on(cluster, PROGRAMS).submit(job)
    pod = found(cluster, job.id)["spec"]["template"]["spec"]
    (first,), (container,) = pod["initContainers"], pod["containers"]
    assert first["command"] == ["/bin/sh", "-c", 'fetch "$$1"', "sh", "/mnt/models"]
    assert first["envFrom"] == container["envFrom"] == [{"secretRef": {"name": "ftjob-1-0-environment"}}]
    mounts = {each["mountPath"]: each for each in first["volumeMounts"]}
    assert mounts.keys() == {"/mnt/models", "/tmp", "/job/scripts", "/opt/engine"}
    assert "readOnly" not in mounts["/mnt/models"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "weights"]
    assert int(volume["emptyDir"]["sizeLimit"]) > 1 << 30


def test_without_its_image_a_program_of_the_platform_has_failed(cluster: Cluster) -> None:
    status = jobs_on(cluster).submit(Job("ftjob-2-0", "proj_1", "true"))
    assert (status.code, status.reason) == (
        "image_unavailable",
        "The image of fine-tuning is not configured any more.",
    )


def test_a_list_of_queued_jobs_asks_for_its_line_once_and_for_no_pods(cluster: Cluster) -> None:
    jobs, names = jobs_on(cluster), [f"bj-{number}" for number in range(4)]
    for name in names:
        jobs.submit(Job(name, "proj_1", "true", image="pytorch"))
        labels = {"kueue.x-k8s.io/job-uid": found(cluster, name)["metadata"]["uid"]}
        workload = {"apiVersion": WORKLOADS.api_version, "kind": WORKLOADS.kind}
        spec = {"podSets": [{"name": "main", "count": 1, "template": {"spec": {"containers": []}}}]}
        metadata = {"namespace": NAMESPACE, "name": f"job-{name}", "labels": labels}
        cluster.create({**workload, "metadata": metadata, "spec": spec})
    line = [{"metadata": {"name": f"job-{name}"}, "positionInClusterQueue": at} for at, name in enumerate(names)]
    asked: list[str] = []
    listed, kinds = cluster.list, []

    def get_raw(path: str) -> dict[str, Any]:
        asked.append(path)
        return {"items": line}

    def note(kind: Any, *arguments: Any, **more: Any) -> Any:
        kinds.append(kind)
        return listed(kind, *arguments, **more)

    cluster.get_raw = get_raw  # type: ignore[method-assign]
    cluster.list = note  # type: ignore[method-assign,assignment]
    statuses = [jobs.status(name) for name in names]
    assert [status and status.place for status in statuses] == [1, 2, 3, 4]
    assert len(asked) == 1
    assert set(kinds) == {WORKLOADS}
    jobs._line = (jobs._line[0], jobs._line[1] - 1, jobs._line[2])
    line.pop(0)
    status = jobs.status(names[0])
    assert status is not None
    assert status.place is None, "the line is known for a moment alone"
