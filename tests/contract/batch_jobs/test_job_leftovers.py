"""What batch jobs leave on clusters and in files when they are moved, deleted, or submitted by a process that is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.batch_jobs.reconciler import Reconciler
from llmariner.batch_jobs.tables import batch_job_results, batch_jobs
from llmariner.errors import NotFound
from llmariner.file_settings import FileSettings
from llmariner.files.file import NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.job_placement.tables import job_leftovers
from llmariner.platform.jobs import JobStatus, Phase
from llmariner.platform.objects.folder import FolderObjects

from ..killed_process import Killed
from ..worker_clusters import FULL, LOST
from .clusters_of_jobs import Clusters
from .scripted_jobs import FilesOfTests


def test_a_lost_cluster_has_its_job_begin_again_elsewhere_and_is_cleaned_when_it_is_back(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    here.ports[west].run(job_id)
    here.reconciler.reconcile(job_id)
    east = here.add("east")
    here.lose(west, seconds=LOST / 2)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == west  # it may come back
    here.lose(west)
    here.reconciler.reconcile(job_id)
    row = here.row(job_id)
    assert (row.cluster_id, row.placement, row.status) == (east, 1, "queued")
    here.reconciler.reconcile(job_id)
    name = f"{job_id}-p1"
    assert here.ports[east].calls == [("submit", name)]
    here.ports[east].run(name)
    here.reconciler.reconcile(name)  # as an event of the cluster names it
    assert here.row(job_id).status == "running"
    here.reconciler.reconcile_all(seconds=10)
    assert here.leftovers() == [job_id]
    here.come_back(west)
    here.ports[west].end(job_id, Phase.SUCCEEDED)
    here.reconciler.reconcile_all(seconds=10)
    assert ("remove", job_id) in here.ports[west].calls
    assert here.leftovers() == []
    assert here.row(job_id).status == "running"
    here.ports[east].end(name, Phase.SUCCEEDED)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).status == "succeeded"


def test_a_cluster_that_is_not_registered_any_more_leaves_nothing_to_remove(here: Clusters) -> None:
    west = here.add("west")
    job_id = here.create(gpu_count=1)
    east = here.add("east")
    here.unregister(west)
    here.reconciler.reconcile(job_id)
    assert here.row(job_id).cluster_id == east
    here.reconciler.reconcile_all(seconds=10)
    assert here.leftovers() == []


def test_a_job_that_is_deleted_while_it_is_submitted_is_removed(
    here: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = here.ports[here.add("west")]
    job_id = here.create(gpu_count=1)
    submit = port.submit

    def submit_late(job: Any) -> JobStatus:
        monkeypatch.undo()
        here.jobs.delete(here.caller, job_id)
        here.reconciler.reconcile(job_id)  # of another process, which finds nothing there
        assert here.row(job_id) is None
        return submit(job)

    monkeypatch.setattr(port, "submit", submit_late)
    here.reconciler.reconcile(job_id)
    assert port.statuses == {}


@pytest.mark.parametrize("change", ["delete", "move"])
def test_a_job_that_is_submitted_by_a_process_which_is_killed_then_is_removed(
    here: Clusters, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    west = here.add("west")
    port = here.ports[west]
    job_id = here.create(gpu_count=1)
    submit = port.submit

    def submit_late(job: Any) -> JobStatus:
        monkeypatch.undo()
        if change == "delete":
            here.jobs.delete(here.caller, job_id)
        else:
            here.add("east")
            here.lose(west)
        here.reconciler.reconcile(job_id)  # of another process, which finds nothing there
        here.come_back(west)
        here.reconciler.reconcile_all(seconds=10)
        submit(job)
        raise Killed

    monkeypatch.setattr(port, "submit", submit_late)
    with pytest.raises(Killed):
        here.reconciler.reconcile(job_id)
    assert set(port.statuses) == {job_id}
    with here.database.write() as session:
        session.run(update(job_leftovers).values(due_at=0.0))
    here.reconciler.reconcile_all(seconds=10)
    assert port.statuses == {}
    assert here.leftovers() == [job_id]
    here.reconciler.reconcile_all(seconds=10)
    assert here.leftovers() == [], "no process can be so late"


def test_what_a_job_left_before_it_moved_is_deleted(here: Clusters, monkeypatch: pytest.MonkeyPatch) -> None:
    west, deleted = here.add("west"), []
    job_id = here.create(gpu_count=1)
    here.reconciler.reconcile(job_id)
    place = {"organization_id": here.owner.organization_id, "project_id": here.owner.project_id}
    with here.database.write() as session:
        session.add(batch_job_results, batch_job_id=job_id, name="a", file_id="file-1", size_bytes=1, **place)
        session.run(update(batch_jobs).values(results_error="b is too large."))
    monkeypatch.setattr(FilesOfTests, "delete", lambda _, actor, file_id: deleted.append((actor.user_id, file_id)))
    here.add("east")
    here.lose(west)
    here.reconciler.reconcile(job_id)
    assert deleted == [(here.caller.user_id, "file-1")]
    assert (here.row(job_id).placement, here.row(job_id).results_error) == (1, None)


def test_a_move_that_is_killed_half_way_leaves_no_file(
    here: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    west, store = here.add("west"), Files(here.database, FolderObjects(tmp_path), FileSettings())
    reconciler = Reconciler(here.database, lambda: here.home, lambda: store, workers=here.workers, full_seconds=FULL)
    job_id = here.create(gpu_count=1)
    reconciler.reconcile(job_id)
    with store.receive(here.owner, purpose=None, size_bytes=0, limit_bytes=9) as content:
        content.write(b"1")
        file = store.save(here.owner, NewFile("a", Purpose.BATCH_JOB_OUTPUT, "text/plain"), content)
    place = {"organization_id": here.owner.organization_id, "project_id": here.owner.project_id}
    with here.database.write() as session:
        session.add(batch_job_results, batch_job_id=job_id, name="a", file_id=file.id, size_bytes=1, **place)

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(store, "delete", die)
    here.add("east")
    here.lose(west)
    with pytest.raises(Killed):
        reconciler.reconcile(job_id)
    assert here.row(job_id).placement == 1
    assert store.expire() == 1
    with pytest.raises(NotFound):
        store.get(here.owner.project_id, file.id)
