"""Batch jobs on worker clusters: where they are placed, what a lost or full cluster means, and that nothing counts twice."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.batch_jobs.job_tokens import JobTokens
from llmariner.batch_jobs.placement import WORKER_ENVIRONMENT
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.cluster_settings import WorkerClusterSettings
from llmariner.clusters.status import ClusterStatuses
from llmariner.clusters.tables import cluster_statuses, clusters
from llmariner.errors import Conflict, InvalidRequest, NotFound, Unavailable
from llmariner.job_placement.tables import job_leftovers
from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.kube.errors import Forbidden
from llmariner.settings import Secret
from llmariner.showback.installation import check_worker_clusters
from llmariner.tenancy.tables import organizations

from ..worker_clusters import FULL
from .clusters_of_jobs import Clusters
from .scripted_jobs import NEW


def test_a_job_runs_at_home_where_that_can_and_else_where_its_gpus_are(here: Clusters) -> None:
    west = here.add("west")
    assert here.row(here.create()).cluster_id is None
    job = here.jobs.create(here.caller, replace(NEW, gpu_count=2))
    assert (job.cluster_id, job.cluster_name, job.status) == (west, "west", Phase.QUEUED)
    assert here.jobs.get(here.caller.key_owner.project_id, job.id).cluster_name == "west"
    here.reconciler.reconcile(job.id)
    assert here.ports[west].calls == [("submit", job.id)]
    assert here.home.calls == []
    here.ports[west].run(job.id)
    here.reconciler.reconcile(job.id)
    here.ports[west].end(job.id, Phase.SUCCEEDED)
    here.reconciler.reconcile_all(seconds=10)
    assert here.jobs.get(here.owner.project_id, job.id).status is Phase.SUCCEEDED


def test_gpus_that_were_placed_since_the_inventory_count(here: Clusters) -> None:
    here.add("east", allocated=2)
    here.add("west", allocated=1)
    placed = [here.row(here.create(gpu_count=2)).cluster_id for _ in range(3)]
    assert placed == ["cluster-west", "cluster-east", "cluster-east"]  # the last one waits in a line


def test_assignments_and_the_request_are_respected(here: Clusters) -> None:
    east, west = here.add("east"), here.add("west")
    assert here.row(here.create(cluster_id=west)).cluster_id == west
    here.assign(east)
    assert here.row(here.create()).cluster_id == east
    for unknown in (west, "cluster-local", "nonsense"):
        with pytest.raises(NotFound):
            here.create(cluster_id=unknown)


def test_a_cluster_of_another_organization_or_without_work_gets_none(here: Clusters) -> None:
    other, people = here.add("other"), here.add("people", work=False)
    with here.database.write() as session:
        session.add(organizations, id="org_other", title="Others", is_default=False, created_at=1)
        session.run(update(clusters).where(clusters.c.id == other).values(organization_id="org_other"))
    with pytest.raises(NotFound):
        here.create(cluster_id=other)
    with pytest.raises(Conflict):
        here.create(cluster_id=people)
    with pytest.raises(InvalidRequest) as raised:
        here.create(gpu_count=1)
    assert raised.value.code == "no_gpu"


def test_an_image_that_no_cluster_could_load_stays_at_home(here: Clusters) -> None:
    west = here.add("west")
    here.workers._images = {}
    assert here.row(here.create()).cluster_id is None
    with pytest.raises(Conflict):
        here.create(cluster_id=west)


def test_a_program_starts_in_a_job_whose_row_is_behind_its_cluster(here: Clusters) -> None:
    port = here.ports[here.add("west")]
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    _, name = here.jobs._ports.of(job_id)
    with pytest.raises(Conflict, match="its status is queued"):
        here.jobs.exec(here.caller, job_id, ["ls"], b"")
    port.statuses[name] = JobStatus(Phase.RUNNING, 2.0, 2.0)
    assert here.row(job_id).status == "queued"
    with pytest.raises(Conflict, match=r"does not run\.$"):  # the port was asked, whose jobs run no programs
        here.jobs.exec(here.caller, job_id, ["ls"], b"")


def test_tokens_of_the_placement_before_are_dead(here: Clusters) -> None:
    west, tokens = here.add("west"), JobTokens(here.database, [Secret("s" * 64)])
    job_id = here.create(gpu_count=1)
    old = tokens.issue(job_id)
    assert tokens.open(old, job_id).job_id == job_id
    here.add("east")
    here.lose(west)
    here.reconciler.reconcile(job_id)
    with pytest.raises(Conflict) as raised:
        tokens.open(old, job_id)
    assert raised.value.code == "job_moved"
    new = tokens.issue(f"{job_id}-p1")
    assert (tokens.open(new, f"{job_id}-p1").job_id, tokens.open(new, f"{job_id}-p1").placement) == (job_id, 1)


def test_what_an_old_placement_says_late_is_not_recorded(here: Clusters) -> None:
    from llmariner.batch_jobs.status_records import record_status

    west = here.add("west")
    job_id = here.create(gpu_count=1)
    observed = here.row(job_id)
    here.add("east")
    here.lose(west)
    here.reconciler.reconcile(job_id)
    record_status(here.database, observed, JobStatus(Phase.SUCCEEDED, 9.0, 5.0))
    assert here.row(job_id).status == "queued"


def test_a_job_that_waits_too_long_goes_where_room_is(here: Clusters) -> None:
    west = here.add("west", allocated=4)
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    east = here.add("east")
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == west
    here.age(job_id, FULL + 1)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == east
    assert here.ports[west].calls[-1] == ("remove", job_id)
    here.age(job_id, FULL + 1)
    with here.database.write() as session:
        session.run(update(cluster_statuses).values(inventory_at=0.0))
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == east  # nowhere else is room


def test_a_job_that_asked_for_its_cluster_waits_for_it(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1, cluster_id=west)
    here.add("east")
    here.age(job_id, FULL + 1)
    here.lose(west)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == west


@pytest.mark.parametrize("change", ["cancel", "delete"])
def test_a_job_of_a_lost_cluster_can_be_ended(here: Clusters, change: str) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    here.lose(west)
    getattr(here.jobs, change)(here.caller, job_id)
    here.reconciler.reconcile(job_id)
    row = here.row(job_id)
    assert row is None if change == "delete" else row.status == "canceled"
    assert here.leftovers() == [job_id]


def test_a_cluster_whose_administrator_took_the_rights_back_loses_its_queued_jobs(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    east = here.add("east")
    here.ports[west].error = Forbidden("users is forbidden")
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == west
    assert "forbidden" in here.jobs.get(here.owner.project_id, job_id).reason
    here.age(job_id, FULL + 1)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == east


def test_a_list_asks_a_cluster_that_is_away_once(here: Clusters) -> None:
    west = here.add("west")
    for _ in range(3):
        here.create(gpu_count=1)
    asked = []

    def away(job_id: str) -> None:
        asked.append(job_id)
        raise Unavailable("It is away.")

    here.ports[west].status = away  # type: ignore[method-assign]
    found, _ = here.jobs.page(here.owner.project_id, after=None, limit=10)
    assert [each.reason for each in found] == ["It is away."] * 3
    assert len(asked) == 1


def test_a_cluster_that_answers_nonsense_holds_up_no_other(here: Clusters) -> None:
    west, east = here.add("west"), here.add("east")
    with here.database.write() as session:
        for number in range(3):
            session.add(job_leftovers, name=f"bj-west-{number}", cluster_id=west, due_at=float(number))
        session.add(job_leftovers, name="bj-east", cluster_id=east, due_at=9.0)
    here.ports[west].error = KeyError("metadata")
    asked = here.ports[west].asked
    here.reconciler.reconcile_all(seconds=10)
    assert here.leftovers(due=False) == ["bj-west-0", "bj-west-1", "bj-west-2"]
    assert asked == ["bj-west-0"]
    here.reconciler.reconcile_all(seconds=10)
    assert asked == ["bj-west-0"]  # half a minute later


def test_workloads_that_can_not_be_read_hold_up_no_other_cluster(here: Clusters) -> None:
    west, east = here.add("west"), here.add("east")
    for cluster in (west, east):
        here.create(gpu_count=1, cluster_id=cluster)
    asked = []

    class Nonsense:
        def list(self, *_: Any) -> Any:
            return SimpleNamespace(items=[{"metadata": 5}])

    def connection_to(cluster_id: str) -> Any:
        asked.append(cluster_id)
        return Nonsense()

    settings = WorkerClusterSettings()
    statuses, remote = ClusterStatuses(here.database, settings), SimpleNamespace(connection_to=connection_to)
    installation: Any = SimpleNamespace(statuses=statuses, remote=remote, settings=settings)
    check_worker_clusters(here.database, installation)
    assert sorted(asked) == sorted([west, east])


def test_a_job_that_asked_for_a_cluster_that_is_gone_for_good_ends(here: Clusters) -> None:
    west = here.add("west")
    here.add("east")
    job = here.create(gpu_count=1, cluster_id=west)
    here.reconciler.reconcile(job)
    here.lose(west)
    here.reconciler.reconcile(job)
    assert here.row(job).finished_at is None
    here.unregister(west)
    here.reconciler.reconcile(job)
    assert (here.row(job).status, here.row(job).error_code) == ("failed", "cluster_gone")


def test_a_job_can_be_canceled_where_the_rights_were_taken_back_for_good(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1, cluster_id=west)
    here.reconciler.reconcile(job_id)
    here.ports[west].run(job_id)
    here.reconciler.reconcile(job_id)
    here.ports[west].error = Forbidden("users is forbidden")
    here.jobs.cancel(here.caller, job_id)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).status == "running", "the rights may come back"
    with here.database.write() as session:
        session.run(update(batch_jobs).values(cancel_requested_at=time.time() - FULL - 1))
    here.reconciler.reconcile(job_id)
    assert (here.row(job_id).status, here.leftovers()) == ("canceled", [job_id])


def test_a_job_of_a_lost_cluster_pauses_and_begins_elsewhere_once_it_is_resumed(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1, backoff_limit=2)
    here.reconciler.reconcile(job_id)
    here.ports[west].run(job_id)
    here.reconciler.reconcile(job_id)
    east = here.add("east")
    here.lose(west)
    here.jobs.pause(here.caller, job_id)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).status == "paused"
    here.jobs.resume(here.caller, job_id)
    here.reconciler.reconcile(job_id)
    assert (here.row(job_id).cluster_id, here.row(job_id).status) == (east, "queued")


def test_a_job_whose_cluster_is_not_registered_any_more_waits_in_line_for_another(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    here.ports[west].run(job_id)
    here.reconciler.reconcile(job_id)
    here.lose(west)
    here.unregister(west)
    for _ in range(2):
        here.reconciler.reconcile(job_id)
        assert (here.row(job_id).status, here.row(job_id).placement) == ("queued", 1)
    east = here.add("east")
    for _ in range(2):
        here.reconciler.reconcile(job_id)
    assert (here.row(job_id).cluster_id, here.ports[east].calls) == (east, [("submit", f"{job_id}-p2")])


def test_a_job_that_leaves_home_says_where_it_runs(here: Clusters) -> None:
    job_id = here.create()
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).environment == here.home.environment
    east = here.add("east")
    here.age(job_id, FULL + 1)
    here.reconciler.reconcile(job_id)
    assert (here.row(job_id).cluster_id, here.row(job_id).environment) == (east, WORKER_ENVIRONMENT)


def test_a_job_that_left_its_line_is_queued_elsewhere_though_the_room_there_is_gone(here: Clusters) -> None:
    west = here.add("west", allocated=4)
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    east, remove = here.add("east", allocated=3), here.ports[west].remove

    def remove_late(name: str) -> None:
        here.create(gpu_count=1, cluster_id=east)  # takes the room
        with here.database.write() as session:  # and it has just begun, as another process saw
            session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(status="running", started_at=5.0))
        remove(name)

    here.ports[west].remove = remove_late  # type: ignore[assignment,method-assign]
    here.age(job_id, FULL + 1)
    for _ in range(2):
        here.reconciler.reconcile(job_id)
    row = here.row(job_id)
    assert (row.status, row.error_code, row.cluster_id) == ("queued", None, east)
