"""Agents name the Jobs that changed, and those jobs of their own cluster are looked at, by their present names."""

from __future__ import annotations

from llmariner.batch_jobs.events import CHANGE_REQUESTED
from llmariner.platform.jobs import Phase

from .clusters_of_jobs import Clusters


def test_a_job_is_shown_running_and_ended_once_its_cluster_names_it(here: Clusters) -> None:
    port = here.ports[west := here.add("west")]
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    assert here.hear(west, []) == (True, [])
    port.run(job_id)
    assert here.row(job_id).status == "queued"
    for expected in ("running", "succeeded"):
        taken, requested = here.hear(west, [job_id, job_id])
        assert (taken, requested) == (True, [(CHANGE_REQUESTED, job_id)])
        here.reconciler.reconcile(job_id)
        assert here.row(job_id).status == expected
        port.end(job_id, Phase.SUCCEEDED)
    assert here.hear(west, [job_id]) == (True, [])


def test_an_agent_reaches_no_job_of_another_cluster_or_placement(here: Clusters) -> None:
    west = here.add("west")
    job_id, at_home = here.create(gpu_count=1), here.create()
    here.reconciler.reconcile(job_id)
    east = here.add("east")
    nonsense = [at_home, "bj-none", f"{job_id}-p1", f"{job_id}-p", f"{job_id}-1", "ftjob-x-1", "", "-", "%", "x" * 253]
    for cluster_id, names in ((east, [job_id, *nonsense]), (west, nonsense)):
        assert here.hear(cluster_id, names) == (True, []), cluster_id
    here.lose(west)
    here.reconciler.reconcile(job_id)
    here.come_back(west)
    assert here.row(job_id).cluster_id == east
    moved = f"{job_id}-p1"
    assert here.hear(west, [job_id, moved]) == (True, [])
    assert here.hear(east, [job_id]) == (True, [])
    assert here.hear(east, [moved]) == (True, [(CHANGE_REQUESTED, job_id)])


def test_more_names_than_a_heartbeat_has_are_cut(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    assert here.hear(west, [*(f"bj-{number}" for number in range(200)), job_id]) == (True, [])


def test_a_heartbeat_that_follows_too_soon_leaves_its_names_to_the_next_one(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    assert here.hear(west, [job_id], seconds_after=1.0) == (False, [])
    assert here.hear(west, [job_id], seconds_after=6.0) == (True, [(CHANGE_REQUESTED, job_id)])
