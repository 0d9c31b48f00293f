"""Files that pods of batch jobs leave: named with a token of the job, uploaded by links, the job's at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from llmariner.batch_jobs.job_tokens import JobTokens
from llmariner.batch_jobs.references import BatchJobReferences
from llmariner.batch_jobs.result_uploads import ResultUploads
from llmariner.batch_jobs.tables import batch_jobs
from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, PermissionDenied
from llmariner.file_settings import FileSettings
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.tables import uploads
from llmariner.files.upload_links import UploadLinks, withdraw_link
from llmariner.platform.database import Database, ReadSession
from llmariner.platform.jobs import Phase, ResultFile
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import Secret
from llmariner.tenancy.principal import KeyOwner

from ..team import Team
from .scripted_jobs import BatchJobDesk

SECRETS = (Secret("s" * 64),)


class Pods:
    """Running jobs, and what their pods do."""

    def __init__(self, database: Database, owner: KeyOwner, team: Team, folder: Path) -> None:
        self.desk = BatchJobDesk(database, owner, adapter="kubernetes", images=("pytorch-2.1",))
        self.desk.caller = team.admin
        self.files = self.desk.files.store = Files(
            database, FolderObjects(folder), FileSettings(link_seconds=3600), (BatchJobReferences(),)
        )
        self.links = UploadLinks(database, self.files.settings, SECRETS)
        self.tokens = JobTokens(database, SECRETS)
        self.uploads = ResultUploads(database, lambda: self.files, lambda: self.links, lambda _: "http://files", 1000)
        self.owner = owner

    def running(self) -> str:
        """The id of a job that runs."""
        job_id = self.desk.create()
        self.desk.reconciler.reconcile(job_id)
        self.desk.scripted.run(job_id)
        self.desk.reconciler.reconcile(job_id)
        return job_id

    def name(self, job_id: str, left: dict[str, bytes], left_out: str = "") -> dict[str, str]:
        """The tokens of the links of files, by name."""
        pod = self.tokens.open(self.tokens.issue(job_id), job_id)
        named = [ResultFile(name, len(content)) for name, content in left.items()]
        made = self.uploads.begin(pod, named, left_out)
        assert all(url.startswith("http://files/v1/files:upload?link=") for _, url in made)
        return {name: url.partition("link=")[2] for name, url in made}

    def upload(self, token: str, content: bytes) -> str:
        """Upload by a link; returns the id of the file."""
        link = self.links.open(token)
        with self.files.receive(self.owner, purpose=None, size_bytes=0, limit_bytes=link.terms.max_bytes) as receiving:
            receiving.write(content)
            made = self.files.save(
                self.owner, link.terms.new, receiving, lambda session, file: self.links.record_use(session, link, file)
            )
        return made.id


@pytest.fixture
def pods(database: Database, owner: KeyOwner, team: Team, tmp_path: Path) -> Pods:
    return Pods(database, owner, team, tmp_path)


def test_what_is_uploaded_is_the_jobs_when_it_has_ended(pods: Pods) -> None:
    job_id = pods.running()
    left = {"model/adapter.bin": b"weights", "loss.csv": b"0.1\n", "late": b""}
    links = pods.name(job_id, left, "Not kept: 'pipe', which is no regular file.")
    made = {name: pods.upload(links[name], left[name]) for name in ("model/adapter.bin", "loss.csv")}
    assert pods.desk.jobs.get(pods.desk.project_id, job_id).results == []
    pods.desk.scripted.end(job_id, Phase.FAILED, "exit_code", "It ended with exit code 3.")
    job = pods.desk.reconciled(job_id)
    assert {each.name: each.file_id for each in job.results} == made
    assert job.results_error == "Not kept: 'pipe', which is no regular file. Not uploaded: 'late'."
    with pytest.raises(Conflict) as withdrawn:
        pods.upload(links["late"], b"")
    assert withdrawn.value.code == "link_withdrawn"
    file = pods.files.get(pods.desk.project_id, made["model/adapter.bin"])
    assert (file.filename, file.purpose, file.size_bytes) == ("adapter.bin", Purpose.BATCH_JOB_OUTPUT, 7)
    with pytest.raises(Conflict) as raised:
        pods.name(job_id, {})
    assert raised.value.code == "job_ended"


def test_files_may_take_hours_to_arrive(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    pods.links = UploadLinks(pods.desk.database, FileSettings(), SECRETS)
    links, begun = pods.name(pods.running(), {"a": b"1", "b": b"2"}), time.time()
    monkeypatch.setattr(ReadSession, "now", lambda _: begun + 5 * 3600)
    assert pods.upload(links["b"], b"2")
    monkeypatch.setattr(ReadSession, "now", lambda _: begun + 8 * 86400)
    with pytest.raises(PermissionDenied, match="expired"):
        pods.upload(links["a"], b"1")


def test_what_is_uploaded_in_the_moment_in_which_the_job_ends_is_not_lost(
    pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pods.desk.database.engine.dialect.name == "sqlite":
        pytest.skip("it has one writer at a time")
    job_id = pods.running()
    token, made = pods.name(job_id, {"last": b"weights"})["last"], list[str]()

    def meet(*given: Any) -> str | None:
        made.append(pods.upload(token, b"weights"))
        return withdraw_link(*given)

    monkeypatch.setattr("llmariner.batch_jobs.result_uploads.withdraw_link", meet)
    pods.desk.jobs.cancel(pods.desk.caller, job_id)
    job = pods.desk.reconciled(job_id)
    assert ([each.file_id for each in job.results], job.results_error) == (made, None)


def test_a_pod_that_begins_again_replaces_what_the_one_before_left(pods: Pods) -> None:
    job_id = pods.running()
    first = pods.name(job_id, {"a": b"1", "b": b"2"}, "The first.")
    gone = pods.upload(first["a"], b"1")
    second = pods.name(job_id, {"a": b"3"})
    assert pods.files.page(pods.desk.project_id, purpose=None, after=None, limit=9, order="asc") == []
    kept = pods.upload(second["a"], b"3")
    with pytest.raises(Conflict) as late:
        pods.upload(first["b"], b"2")
    assert late.value.code == "link_withdrawn"
    pods.desk.scripted.end(job_id, Phase.SUCCEEDED)
    job = pods.desk.reconciled(job_id)
    assert [(each.name, each.file_id) for each in job.results] == [("a", kept)]
    assert (job.results_error, gone in kept) == (None, False)


def test_a_job_that_is_deleted_before_its_end_leaves_no_file(pods: Pods) -> None:
    job_id = pods.running()
    links = pods.name(job_id, {"a": b"1", "b": b"2"})
    pods.upload(links["a"], b"1")
    receiving = pods.links.open(links["b"])
    pods.desk.jobs.delete(pods.desk.caller, job_id)
    pods.desk.reconciler.reconcile(job_id)
    pods.files.expire()
    assert pods.files.page(pods.desk.project_id, purpose=None, after=None, limit=9, order="asc") == []
    with pods.files.receive(pods.owner, purpose=None, size_bytes=0, limit_bytes=9) as content, pytest.raises(Conflict):
        pods.files.save(
            pods.owner,
            receiving.terms.new,
            content,
            lambda session, file: pods.links.record_use(session, receiving, file),
        )


def test_a_file_that_was_deleted_before_the_jobs_end_is_not_among_them(pods: Pods) -> None:
    job_id = pods.running()
    made = pods.upload(pods.name(job_id, {"a": b"1"})["a"], b"1")
    pods.files.delete(pods.desk.caller, made)
    pods.desk.scripted.end(job_id, Phase.SUCCEEDED)
    job = pods.desk.reconciled(job_id)
    assert (job.results, job.results_error) == ([], None)


@pytest.mark.parametrize(
    "named",
    [
        [ResultFile("../a", 1)],
        [ResultFile("/a", 1)],
        [ResultFile("a//b", 1)],
        [ResultFile("a/.", 1)],
        [ResultFile("a\nb", 1)],
        [ResultFile("x" * 256, 1)],
        [ResultFile("a", 1)] * 2,
        [ResultFile("a", 600), ResultFile("b", 401)],
        [ResultFile("a", -1)],
        [ResultFile(str(each), 0) for each in range(101)],
    ],
)
def test_what_no_job_leaves_is_refused(pods: Pods, named: list[ResultFile]) -> None:
    job_id = pods.running()
    pod = pods.tokens.open(pods.tokens.issue(job_id), job_id)
    with pytest.raises(InvalidRequest):
        pods.uploads.begin(pod, named, "")


def test_the_pods_of_a_job_name_their_files_so_often_and_no_more(pods: Pods, database: Database) -> None:
    job_id = pods.running()
    kept = pods.upload(pods.name(job_id, {"a": b"x"})["a"], b"x")
    with database.write() as session:
        named = session.value(select(batch_jobs.c.results_named).where(batch_jobs.c.id == job_id))
        session.run(update(batch_jobs).where(batch_jobs.c.id == job_id).values(results_named=40))
        before = session.value(select(func.count()).select_from(uploads))
    with pytest.raises(Conflict, match="the most"):
        pods.name(job_id, {"a": b"y"})
    with database.read() as session:
        assert (named, session.value(select(func.count()).select_from(uploads))) == (1, before), "no link is made"
    assert pods.files.get(pods.owner.project_id, kept).size_bytes == 1


def test_a_token_is_good_for_one_job_whose_maker_may_make_files(pods: Pods, database: Database) -> None:
    job_id, other = pods.running(), pods.desk.create()
    for token in (pods.tokens.issue(other), JobTokens(database, (Secret("t" * 64),)).issue(job_id), "x", ""):
        with pytest.raises(AuthenticationFailed):
            pods.tokens.open(token, job_id)
    token = pods.tokens.issue(job_id)
    link = pods.name(job_id, {"a": b"1"})["a"]
    with pytest.raises(AuthenticationFailed):
        pods.tokens.open(link, job_id)
    with pytest.raises(PermissionDenied):
        pods.links.open(token)
    pods.desk.jobs.cancel(pods.desk.caller, job_id)
    with pytest.raises(Conflict):
        pods.tokens.open(token, job_id)
