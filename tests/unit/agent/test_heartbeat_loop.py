"""The loop of the agent obeys sensible answers alone, and waits longer for a control plane that is away."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.agent.control_plane import NotReached, Refused
from llmariner.agent.gpu_config import GpuSharing
from llmariner.agent.heartbeat_loop import HeartbeatLoop
from llmariner.errors import Unavailable
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.resources import JOBS, Resource
from llmariner.platform.kube.watch import Listing


class EmptyCluster:
    """A cluster without nodes; `problem`: what every call raises."""

    problem: Exception | None = None
    accepts_work, is_reachable = False, True

    def __init__(self) -> None:
        self.applied: list[Any] = []
        self.jobs: list[dict[str, Any]] = []

    def get_raw(self, path: str) -> dict[str, str]:
        if self.problem is not None:
            raise self.problem
        return {"gitVersion": "v1.34.4"}

    def list(self, resource: Resource, *_: Any, **__: Any) -> Listing:
        if self.problem is not None:
            raise self.problem
        return Listing(self.jobs if resource is JOBS else [], "1")

    def get(self, *_: Any) -> None:
        if self.problem is not None:
            raise self.problem

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.problem is not None:
            raise self.problem
        return {**body, "status": {"allowed": self.accepts_work}}

    def apply(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        if self.problem is not None:
            raise self.problem
        self.applied.append(body)
        return body

    def delete(self, *place: Any) -> bool:
        self.applied.append(place[-1])
        return True


class Scripted:
    """Gives the answers in turn, and the last one for ever."""

    url = "https://llm.example.org"

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = list(answers)
        self.heartbeats: list[dict[str, Any]] = []

    def report(self, heartbeat: dict[str, Any]) -> dict[str, Any]:
        self.heartbeats.append(heartbeat)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def loop(cluster: EmptyCluster, control_plane: Scripted) -> HeartbeatLoop:
    sharing = GpuSharing(cluster, "nvidia")  # type: ignore[arg-type]
    return HeartbeatLoop(cluster, control_plane, sharing, lambda: cluster.is_reachable)  # type: ignore[arg-type]


def test_intervals_are_those_of_the_answer_where_they_are_sensible() -> None:
    answers = [{"heartbeat_interval_seconds": each} for each in (7, 0, -1, 1e9, "9", None, True, float("nan"))]
    beats = loop(EmptyCluster(), Scripted(*answers))
    assert [beats.beat() for _ in answers] == [7.0, *[15.0] * 7]


def test_an_inventory_is_sent_when_it_is_due_and_again_after_a_failure() -> None:
    control_plane = Scripted(NotReached("away"), {"inventory_interval_seconds": 3600})
    beats = loop(EmptyCluster(), control_plane)
    for _ in range(3):
        beats.beat()
    assert ["inventory" in each for each in control_plane.heartbeats] == [True, True, False]
    assert [each["name"] for each in control_plane.heartbeats[2]["components"]] == ["agent", "nodes"]


def test_changed_jobs_are_sent_until_they_are_taken() -> None:
    cluster, taken = EmptyCluster(), {"changed_jobs_limit": 5, "changed_jobs_taken": True}
    cluster.jobs = [{"metadata": {"name": "bj-1", "uid": "1"}}]
    control_plane = Scripted(taken, NotReached("away"), {**taken, "changed_jobs_taken": False}, taken)
    beats = loop(cluster, control_plane)
    for _ in range(3):
        beats.beat()
    cluster.problem = Unavailable("The API server is away.")
    beats.beat()  # the answer is no answer to names that were not sent
    cluster.problem, cluster.is_reachable = None, False
    beats.beat()  # nobody could read them
    cluster.is_reachable = True
    for _ in range(2):
        beats.beat()
    named, sent = ["bj-1"], [each.get("changed_jobs") for each in control_plane.heartbeats]
    assert sent == [None, named, named, None, None, named, None]


def test_waits_grow_to_a_minute_and_shrink_once_it_answers() -> None:
    control_plane = Scripted(*[NotReached("away")] * 9, Refused(401, "unknown key"), {}, NotReached("away"))
    beats = loop(EmptyCluster(), control_plane)
    waits = [beats.beat() for _ in range(12)]
    assert 0.5 <= waits[0] <= 1
    assert all(30 <= each <= 60 for each in waits[7:10])
    assert waits[10] == 15
    assert waits[11] <= 1


def test_a_cluster_that_cannot_be_read_is_reported_as_such() -> None:
    cluster, control_plane = EmptyCluster(), Scripted({})
    cluster.problem = Unavailable("The API server is away.")
    loop(cluster, control_plane).beat()
    [heartbeat] = control_plane.heartbeats
    [agent, *others] = heartbeat["components"]
    assert (agent["name"], agent["is_healthy"]) == ("agent", False)
    assert "inventory" not in heartbeat
    assert others
    assert not any(each["is_healthy"] for each in others)


@pytest.mark.parametrize("accepted", [True, False])
def test_an_agent_says_if_the_control_plane_may_run_work(accepted: bool) -> None:
    cluster, control_plane = EmptyCluster(), Scripted({})
    cluster.accepts_work = accepted
    loop(cluster, control_plane).beat()
    [heartbeat] = control_plane.heartbeats
    assert ("work" in [each["name"] for each in heartbeat["components"]]) is accepted


def test_a_configuration_is_applied_once_and_its_result_reported() -> None:
    config = {"generation": 2, "config": {"time_slicing": {"gpus": 4}}}
    cluster, control_plane = EmptyCluster(), Scripted({"device_plugin_config": config})
    beats = loop(cluster, control_plane)
    for _ in range(3):
        beats.beat()
    assert control_plane.heartbeats[2]["config"] == {"generation": 2, "applied": True, "message": ""}
    assert [each["metadata"]["name"] for each in cluster.applied] == ["llmariner-device-plugin-config"]
    assert '"replicas": 4' in cluster.applied[0]["data"]["llmariner-default"]


@pytest.mark.parametrize(
    ("config", "namespace", "problem"),
    [
        ({"time_slicing": {"gpus": 4}}, "", None),
        ({"time_slicing": {"gpus": 4}}, "nvidia", Forbidden("no right")),
        ({"time_slicing": {"gpus": 4}, "mps": {"gpus": 4}}, "nvidia", None),
        ({"time_slicing": {"gpus": "x"}}, "nvidia", None),
        ({"mig": {"strategy": "later"}}, "nvidia", None),
        ([1], "nvidia", None),
    ],
)
def test_a_configuration_that_cannot_be_applied_is_reported_and_tried_again(
    config: Any, namespace: str, problem: Exception | None
) -> None:
    cluster, sharing = EmptyCluster(), None
    cluster.problem = problem
    sharing = GpuSharing(cluster, namespace)  # type: ignore[arg-type]
    sharing.apply({"generation": 1, "config": config})
    assert sharing.result is not None
    assert not sharing.result["applied"]
    assert sharing.result["message"]
    cluster.problem = None
    sharing.apply({"generation": 2, "config": None})
    assert sharing.result["applied"]
