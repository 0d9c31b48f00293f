"""A drained worker cluster hands its model to another one, under a stream and requests, and every token is in the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmariner.manifests.installation import MODELS_NAMESPACE

from ...lab.kubectl import get
from ...lab.places import Lab
from ...lab.wait import until
from ...platform import overlay
from ...platform.installed import Installed
from ..platform_client import PARIS, Answer, PlatformClient
from ..two_clusters.worker import Person, Worker
from ..worker_cluster.control_plane import ControlPlane, engines, running, unfit

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.timeout(1200)]

PACKAGED, MODEL = "smollm2-135m-instruct", "moving-smollm2"
PATIENCE = 300
STORY_TOKENS = 1500


@pytest.fixture(scope="module")
def labs() -> tuple[Lab, Lab]:
    """Two test clusters without a platform."""
    found = Lab(0), Lab(1)
    for lab in found:
        if why := unfit(lab):
            pytest.skip(f"needs two test clusters: {why}")
    return found


@pytest.fixture(scope="module")
def control_plane(labs: tuple[Lab, Lab], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running(labs[0], tmp_path_factory.mktemp("machine") / "home") as made:
        yield made


@pytest.fixture(scope="module")
def workers(labs: tuple[Lab, Lab], control_plane: ControlPlane) -> Iterator[dict[str, Worker]]:
    """By their clusters' ids."""
    owner = Person(control_plane.home, f"http://{control_plane.address}", control_plane.api_key)
    made = [Worker(lab, name, "llmariner-jobs") for lab, name in zip(labs, ("east", "west"), strict=True)]
    with contextlib.ExitStack() as stack:
        for each in made:
            stack.callback(each.clean)
            each.join(owner, work=True)
            stack.enter_context(engines(each.lab))
        _, listed = control_plane.call("GET", "/clusters?limit=100")
        ids = {each["name"]: str(each["id"]) for each in listed["data"]}
        yield {ids[each.name]: each for each in made}


@pytest.fixture
def client(control_plane: ControlPlane, workers: dict[str, Worker]) -> Iterator[PlatformClient]:
    """With a model that may run on both worker clusters."""
    control_plane.register(MODEL, overlay.weights(PACKAGED), cluster_ids=list(workers))
    with contextlib.closing(PlatformClient(control_plane)) as client:
        yield client


def test_a_drained_cluster_hands_its_model_to_another_one_and_ends_its_stream_whole(
    client: PlatformClient, control_plane: ControlPlane, workers: dict[str, Worker]
) -> None:
    first = client.stream(MODEL, PARIS, wait=PATIENCE)
    assert first.error is None, first.error
    ((before, _),) = phases(control_plane).items()
    (after,) = workers.keys() - {before}
    owner = Person(control_plane.home, f"http://{control_plane.address}", control_plane.api_key)
    asked = [first]
    with ThreadPoolExecutor() as pool:
        story = pool.submit(client.stream, MODEL, "Tell a long story.", max_tokens=STORY_TOKENS, ignore_eos=True)
        began = time.monotonic()
        owner.done("llma", "admin", "clusters", "drain", workers[before].name)
        while phases(control_plane).get(after) != "ready":
            asked.append(client.whole(MODEL, PARIS, max_tokens=5))
            assert time.monotonic() - began < PATIENCE, phases(control_plane)
        moved = time.monotonic() - began
        asked.append(story.result())
        # The engine that nobody uses any more lives until the next sweep.
        generated = counted(client, workers[before])
    asked.append(client.whole(MODEL, PARIS, max_tokens=5, wait=60))
    until("the first cluster has no engine", lambda: _engines(workers[before].lab), seconds=200, pause=1)
    ended = time.monotonic() - began
    print(
        f"\n{len(asked)} requests; the other cluster served {moved:.0f} s after, the first had no engine {ended:.0f} s after"
    )
    assert [(each.status, each.error) for each in asked if each.status != 200 or each.error] == []
    assert asked[-2].usage["completion_tokens"] == STORY_TOKENS
    assert phases(control_plane) == {after: "ready"}
    assert in_ledger(client, asked) == generated + counted(client, workers[after])


def phases(control_plane: ControlPlane) -> dict[str, str]:
    """The model's phase by cluster."""
    _, shown = control_plane.call("GET", f"/models/{MODEL}")
    return {each["id"]: each["phase"] for each in shown["serving"]["clusters"]}


def counted(client: PlatformClient, worker: Worker) -> int:
    """The tokens that the engines of one cluster made for callers."""
    return sum(client.counted_by(pod) for pod in Installed(worker.lab).engine_pods(MODEL))


def in_ledger(client: PlatformClient, asked: list[Answer]) -> int:
    """The tokens of answers, as they are charged."""
    rows: list[dict[str, Any]] = [client.row(each.request_id) for each in asked]
    return sum(int(row["completion_tokens"]) for row in rows)


def _engines(lab: Lab) -> str | None:
    items = get(lab, "pods,inferenceservices", "-n", MODELS_NAMESPACE)["items"]
    return ", ".join(each["metadata"]["name"] for each in items) or None
