"""What the platform gives to jobs and engines as tokens stands in Secrets alone, which go with what they are for."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.errors import ModelNotFound
from llmariner.platform.jobs import DataFile, Job
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.objects import DataLink
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster, resources
from llmariner.platform.kube.errors import AlreadyExists, Forbidden
from llmariner.platform.kube.resources import INFERENCE_SERVICES, JOBS, SECRETS
from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.kserve.adapter import KServeServing
from llmariner.platform.serving.kserve.adapter_secret import AdapterSecrets
from llmariner.platform.serving.kserve.model_lookup import ServedEngine
from llmariner.settings import KServeSettings

from .caller import Caller, until

TOKEN = "a-token-that-nobody-else-may-read"
BASE = EngineModel("base", "hf://org/base", "generate", 0, project="proj_1")
TUNED = tuple(
    EngineModel(f"ft:base:{n}", f"llmariner-file://{n}", "generate", 0, base="base", weights_token=f"{TOKEN}-{n}")
    for n in range(2)
)


def holders(api: Caller, namespace: str) -> set[tuple[str, str]]:
    """(kind, name) of each object that holds a token, as it is or encoded."""
    found: set[tuple[str, str]] = set()
    for resource in {each for each in vars(resources).values() if isinstance(each, resources.Resource)}:
        if not resource.namespaced:
            continue
        code, listed = api.request("GET", resource.path(namespace))
        for each in listed["items"] if code == 200 else ():
            # A cluster's controllers make others, such as a ConfigMap of authorities, whose data is no base64.
            encoded = each.get("data", {}).values() if resource == SECRETS else ()
            texts = [json.dumps(each).encode(), *map(base64.b64decode, encoded)]
            if any(TOKEN.encode() in text for text in texts):
                found.add((resource.kind, each["metadata"]["name"]))
    return found


def owners(api: Caller, namespace: str, name: str) -> list[tuple[str, str]]:
    metadata = api.get(SECRETS, namespace, name)["metadata"]
    return [(each["kind"], each["uid"]) for each in metadata["ownerReferences"]]


def test_tokens_of_a_job_are_in_its_secrets_alone(api: Caller, namespace: str, cluster: Cluster) -> None:
    settings = ClusterJobSettings(
        namespace=namespace, images={"small": "busybox:1"}, output_url="http://platform", program_image="engine:1"
    )
    jobs = KubernetesJobs(
        cluster, settings, lambda job: [DataLink(each.name, f"http://f/?t={TOKEN}") for each in job.data_files],
        lambda _: TOKEN,
    )  # fmt: skip
    variables = {"LLMARINER_TRAINING_TOKEN": TOKEN}
    jobs.submit(Job("bj-1", "proj_1", "true", image="small", data_files=(DataFile("f1", "a.txt", 1),)))
    jobs.submit(Job("ft-1", "proj_1", "true", environment=variables, weights="s3://b/m", weights_command='fetch "$1"'))
    assert holders(api, namespace) == {("Secret", f"bj-1-{each}") for each in ("data", "output")} | {
        ("Secret", "ft-1-environment")
    }
    for kind, name in holders(api, namespace):
        job = api.get(JOBS, namespace, name[:4])
        assert (kind, owners(api, namespace, name)) == ("Secret", [("Job", job["metadata"]["uid"])])


class Lookup:
    """A model with the adapters that it has now."""

    def __init__(self, *adapters: EngineModel) -> None:
        self.adapters = adapters

    async def engine(self, model_id: str) -> ServedEngine:
        if model_id not in {each.id for each in (BASE, *self.adapters)}:
            raise ModelNotFound(model_id)
        return ServedEngine(BASE, self.adapters)

    async def projects(self) -> set[str]:
        return {"proj_1"}


Woken = Callable[..., dict[str, Any]]


@pytest.fixture
def woken(api: Caller, namespace: str, cluster: Cluster) -> Iterator[Woken]:
    """Wake the engine of the adapters; returns its InferenceService."""
    lookup = Lookup()
    settings = KServeSettings(namespace=namespace, adapter_image="engine:1", adapter_url="http://platform/adapters")
    with asyncio.Runner() as runner:

        async def made() -> KServeServing:
            return KServeServing(cluster, settings, lookup)  # type: ignore[arg-type]

        serving = runner.run(made())

        def wake(*adapters: EngineModel) -> dict[str, Any]:
            lookup.adapters = adapters
            runner.run(serving.wake(adapters[-1].id))
            (service,) = api.done("GET", INFERENCE_SERVICES.path(namespace))["items"]
            return dict(service)

        yield wake


def test_tokens_of_adapters_are_in_a_secret_of_their_engine_alone(api: Caller, namespace: str, woken: Woken) -> None:
    service = woken(TUNED[0])
    ((kind, name),) = holders(api, namespace)
    uid = service["metadata"]["uid"]
    assert (kind, owners(api, namespace, name)) == ("Secret", [("InferenceService", uid)])
    (volume,) = [each for each in service["spec"]["predictor"]["volumes"] if "secret" in each]
    assert volume["secret"]["secretName"] == name
    tokens = json.loads(base64.b64decode(api.get(SECRETS, namespace, name)["data"]["tokens"]))
    assert [token for _, token in tokens] == [f"{TOKEN}-0"]
    # Another adapter is another Secret, and that of before goes.
    woken(*TUNED)
    ((_, other),) = holders(api, namespace)
    assert other != name


def test_who_is_killed_between_engine_and_secret_is_made_good(
    api: Caller, namespace: str, woken: Woken, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(AdapterSecrets, "make", lambda *_: None)
        service = woken(*TUNED)
    assert holders(api, namespace) == set()
    secrets, served = AdapterSecrets(cluster), ServedEngine(BASE, TUNED)
    # Somebody else's Secret of that name is being deleted, as that of an InferenceService before.
    with monkeypatch.context() as taken:
        taken.setattr(Cluster, "create", _exists)
        secrets.make_again(service, served)
    secrets.make_again(service, served)
    assert holders(api, namespace) == set(), "a poll asks the cluster every ten seconds"
    monkeypatch.setattr("llmariner.platform.serving.kserve.adapter_secret._AGAIN_SECONDS", 0.0)
    secrets.make_again(service, served)
    secrets.make_again(service, served)
    assert until(lambda: len(holders(api, namespace)) == 1)


def test_a_cluster_that_allows_no_secret_gets_no_engine_that_waits_for_one(
    api: Caller, namespace: str, woken: Woken, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Cluster.create

    def refused(cluster: Cluster, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        if body["kind"] == "Secret":
            raise Forbidden("secrets is forbidden", ())
        return create(cluster, body, dry_run=dry_run)

    monkeypatch.setattr(Cluster, "create", refused)
    with pytest.raises(ValueError, match="unpack"):
        woken(TUNED[0])
    assert api.done("GET", INFERENCE_SERVICES.path(namespace))["items"] == []


def _exists(*_: Any, **__: Any) -> None:
    raise AlreadyExists("it is there", ())
