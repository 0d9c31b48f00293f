"""Which Jobs an agent names in its heartbeats: each one that changed until it was taken, and none that did not."""

from __future__ import annotations

import datetime
import time
from typing import Any

import pytest

from llmariner.agent.changed_jobs import ChangedJobs
from llmariner.platform.kube.errors import Forbidden
from llmariner.platform.kube.watch import Listing

TAKEN = {"changed_jobs_limit": 200, "changed_jobs_taken": True}
REFUSED = {"changed_jobs_limit": 200, "changed_jobs_taken": False}


class Jobs:
    """The Jobs of a cluster, by name."""

    def __init__(self, **jobs: dict[str, Any]) -> None:
        self.jobs = jobs
        self.asked: list[tuple[Any, ...]] = []
        self.problem: Exception | None = None

    def list(self, *place: Any, labels: dict[str, str]) -> Listing:
        self.asked.append((place[0].kind, place[1], labels))
        if self.problem is not None:
            raise self.problem
        found = [{"metadata": {"name": name, "uid": name}, **each} for name, each in self.jobs.items()]
        return Listing(found, "1")


def active(ready: int = 0) -> dict[str, Any]:
    return {"status": {"active": 1, "ready": ready}}


def ended(kind: str = "Complete", *, seconds_ago: float = 5.0) -> dict[str, Any]:
    at = datetime.datetime.fromtimestamp(time.time() - seconds_ago, datetime.UTC).isoformat()
    return {"status": {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}]}}


def asked(jobs: Jobs, pause: float = 0.0) -> ChangedJobs:
    """After a heartbeat to which the control plane said that it takes names."""
    made = ChangedJobs(jobs, pause=pause)  # type: ignore[arg-type]
    assert made.names() == []
    made.answered([], TAKEN)
    return made


def beat(changed: ChangedJobs, answer: dict[str, Any] | None = TAKEN) -> list[str]:
    """The names of a heartbeat; `answer` None: it was lost."""
    names = changed.names()
    if answer is not None:
        changed.answered(names, answer)
    return names


def test_a_job_is_named_whenever_its_status_changed_and_once_more_when_it_is_gone() -> None:
    jobs = Jobs(a={}, b=active())
    changed = asked(jobs)
    assert beat(changed) == ["a", "b"]
    assert beat(changed) == []
    jobs.jobs["a"] = active(1)
    assert beat(changed) == ["a"]
    jobs.jobs["a"] = ended()
    del jobs.jobs["b"]
    assert beat(changed) == ["a", "b"]
    jobs.jobs.clear()  # one that had ended is nobody's news any more
    assert beat(changed) == []
    jobs.jobs["b"] = active()
    assert beat(changed) == ["b"]
    assert jobs.asked[-1] == ("Job", "llmariner-jobs", {"app.kubernetes.io/managed-by": "llmariner"})


def test_a_job_that_was_made_again_under_its_name_is_another_one() -> None:
    jobs = Jobs(a=active())
    changed = asked(jobs)
    beat(changed)
    jobs.jobs["a"] = {**active(), "metadata": {"name": "a", "uid": "another"}}
    assert beat(changed) == ["a"]


@pytest.mark.parametrize("answer", [None, REFUSED])
def test_names_that_were_not_taken_are_named_again(answer: dict[str, Any] | None) -> None:
    jobs = Jobs(a=active(), b=active())
    changed = asked(jobs)
    assert beat(changed, answer) == ["a", "b"]
    del jobs.jobs["b"]
    jobs.jobs["c"] = active()
    assert beat(changed, answer) == ["a", "b", "c"]
    assert beat(changed) == ["a", "b", "c"]
    assert beat(changed) == []


def test_a_heartbeat_has_so_many_names_and_those_that_wait_longest_come_first() -> None:
    few = {**TAKEN, "changed_jobs_limit": 2}
    jobs = Jobs(**{name: active() for name in "abcde"})
    changed = asked(jobs)
    changed.answered([], few)
    assert beat(changed, few) == ["a", "b"]
    jobs.jobs["a"] = active(1)
    assert [beat(changed, few) for _ in range(3)] == [["c", "d"], ["e", "a"], []]


def test_after_a_restart_jobs_are_named_that_run_or_ended_lately() -> None:
    jobs = Jobs(runs=active(), lately=ended("Failed"), old=ended(seconds_ago=7200), begins={})
    changed = asked(jobs)
    assert beat(changed) == ["runs", "lately", "begins"]
    del jobs.jobs["old"]
    assert beat(changed) == []


@pytest.mark.parametrize(
    "answer",
    [{}, *({"changed_jobs_limit": each, "changed_jobs_taken": True} for each in (0, -1, "9", None, True, 1.5))],
)
def test_a_control_plane_that_asks_for_no_jobs_gets_none_and_the_cluster_is_not_asked(answer: dict[str, Any]) -> None:
    jobs = Jobs(a=active())
    changed = ChangedJobs(jobs, pause=0.0)  # type: ignore[arg-type]
    assert [beat(changed, answer) for _ in range(2)] == [[], []]
    assert jobs.asked == []
    changed.answered([], TAKEN)  # it was upgraded
    assert beat(changed, {}) == ["a"]
    assert beat(changed) == []  # and rolled back
    assert beat(changed) == ["a"]


def test_an_agent_without_the_right_says_so_once_and_continues(caplog: pytest.LogCaptureFixture) -> None:
    jobs = Jobs(a=active())
    changed = asked(jobs)
    jobs.problem = Forbidden("no right")
    assert [beat(changed) for _ in range(3)] == [[], [], []]
    assert [each.message for each in caplog.records] == ["changes of Jobs are not reported: no right"]
    jobs.problem = None
    assert beat(changed) == ["a"]


def test_a_look_that_takes_long_is_followed_by_beats_without_one() -> None:
    jobs = Jobs(a=active(), b=active())
    changed = asked(jobs, pause=1e12)
    assert beat(changed, None) == ["a", "b"]
    jobs.jobs.clear()
    assert beat(changed) == ["a", "b"]
    assert len(jobs.asked) == 1
