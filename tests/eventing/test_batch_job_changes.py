"""What becomes of a Job on the cluster reaches the batch job: an event as an ApiServerSource sends it, and the consumer."""

from __future__ import annotations

import importlib
import json
import uuid
from pathlib import Path
from typing import Any

import yaml

from llmariner.batch_jobs.batch_job import NewBatchJob
from llmariner.context import Context
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.jobs import Phase
from llmariner.platform.kube.resources import JOBS, NAMESPACES
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.principal import Caller

# For a type checker the packages of `tests` are top-level: a relative import cannot name another one.
_caller = importlib.import_module("..kubernetes_api.caller", __package__)
_server = importlib.import_module("..kubernetes_api.server", __package__)
_schemas = importlib.import_module("..kubernetes_api.schemas", __package__)
_http_calls = importlib.import_module("..functions.http_calls", __package__)
_processes = importlib.import_module("..functions.processes", __package__)

CHECKOUT = Path(__file__).resolve().parents[2]
NAMESPACE = "llmariner-jobs"
UPDATED = "dev.knative.apiserver.ref.update"
ENDED = "2030-01-01T00:00:05Z"


def deliver(port: int, data: Any) -> int:
    """What the consumer answers to an event with this data."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": uuid.uuid4().hex,
        "ce-source": "https://10.96.0.1:443",
        "ce-type": UPDATED,
        "ce-kind": "Job",
        "content-type": "application/json",
    }
    question = _http_calls.HttpRequest("POST", "/", json.dumps(data).encode(), headers)
    status: int = _http_calls.send_over_http(port, question).status
    return status


def test_a_job_that_ended_on_the_cluster_has_ended(tmp_path: Path) -> None:
    crds = _schemas.folder()
    with _server.ApiServer(_schemas.Schemas(crds), crds) as server:
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        cluster = _caller.Caller(kubeconfig, agent="kubectl")
        cluster.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        environment = {
            "LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path / 'platform.db'}",
            "LLMARINER_PEPPER": "0123456789abcdef" * 4,
            "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
            "LLMARINER_JOBS": "kubernetes",
            "LLMARINER_JOB_IMAGES": "pytorch-2.1=pytorch/pytorch:2.1.2",
            "LLMARINER_KUBECONFIG": str(kubeconfig),
        }
        context = Context(environment)
        upgrade(context.database)
        owner = ensure_first_owner(context.database)
        caller = Caller(owner.user_id, "", owner.organization_id, owner.project_id, None, "member", frozenset())
        job = context.batch_jobs.create(caller, NewBatchJob("pytorch-2.1", "true", {"run.sh": b""}))
        assert job.environment == "In a container of its image, on the cluster."
        context.batch_job_reconciler.reconcile(job.id)
        made = cluster.get(JOBS, NAMESPACE, job.id)
        assert made["spec"]["template"]["spec"]["containers"][0]["image"] == "pytorch/pytorch:2.1.2"
        condition = {"type": "Complete", "status": "True", "lastTransitionTime": ENDED}
        cluster.set_status(JOBS, NAMESPACE, job.id, {"conditions": [condition], "completionTime": ENDED})
        consumer = _processes.boot_command(CHECKOUT / "eventing/batch_job_changes")
        with _processes.process(consumer, environment, tmp_path / "consumer.log") as port:
            for name in ("other", job.id, job.id):
                assert deliver(port, {"kind": "Job", "name": name, "namespace": NAMESPACE}) == 204
            assert deliver(port, {"name": ""}) == 400
        assert context.batch_jobs.get(owner.project_id, job.id).status is Phase.SUCCEEDED
        context.database.close()


def test_the_trigger_selects_updates_and_deletions_of_jobs() -> None:
    trigger = yaml.safe_load((CHECKOUT / "eventing/batch_job_changes/trigger.yaml").read_text())
    kind, types = trigger["spec"]["filters"]
    assert kind == {"exact": {"kind": "Job"}}
    assert [each["exact"]["type"].rpartition(".")[2] for each in types["any"]] == ["update", "delete"]
