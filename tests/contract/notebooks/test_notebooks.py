"""The store, the reconciliation and the access of notebooks."""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import select, update

from llmariner.audit.request_context import client_address
from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, PermissionDenied, Unavailable
from llmariner.notebooks.notebook import NewNotebook, Status
from llmariner.notebooks.representation import notebook_object
from llmariner.notebooks.tables import notebooks
from llmariner.platform.database import Database
from llmariner.platform.notebooks import ServerPhase, ServerStatus
from llmariner.tenancy.keys.store import Keys, NewKey
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from .scripted_servers import NotebookDesk


@pytest.fixture
def desk(database: Database, keys: Keys, owner: KeyOwner) -> NotebookDesk:
    return NotebookDesk(database, keys, owner)


def own_keys(keys: Keys, owner: KeyOwner) -> list[Any]:
    return [each for each in keys.of_project(owner) if each.name.startswith("notebook ")]


def test_a_notebook_runs_with_a_key_of_its_own(desk: NotebookDesk, keys: Keys, owner: KeyOwner) -> None:
    id_ = desk.create(envs={"LR": "0.1"})
    waiting = desk.reconciled(id_)
    assert (waiting.status, waiting.reason) == (Status.QUEUED, "It waits for memory.")
    server = desk.scripted.servers[id_]
    key = keys.by_secret(server.environment["OPENAI_API_KEY"])
    assert key is not None
    assert key.usable(key.created_at)
    assert key.expires_at == key.created_at + 3600
    assert "api.inference.write" in key.scopes
    assert not [scope for scope in key.scopes if "api_keys" in scope or "notebooks" in scope or "exec" in scope]
    assert server.environment["LR"] == "0.1"
    desk.scripted.say(id_, ServerPhase.RUNNING)
    assert desk.reconciled(id_).status is Status.RUNNING
    desk.store.stop(desk.caller, id_)
    desk.store.stop(desk.caller, id_)  # the same again
    assert desk.reconciled(id_).status is Status.STOPPED
    assert own_keys(keys, owner) == []
    desk.store.start(desk.caller, id_)
    desk.reconciler.reconcile(id_)
    again = desk.scripted.servers[id_]
    assert (again.run, again.token == server.token) == (2, False)
    assert desk.scripted.calls == [("start", id_), ("stop", id_), ("start", id_)]


def test_no_secret_stands_in_the_database(desk: NotebookDesk, database: Database) -> None:
    id_ = desk.running()
    with database.read() as session:
        row = session.first(select(notebooks).where(notebooks.c.id == id_))
    server, stored = desk.scripted.servers[id_], repr(row)
    assert server.token not in stored
    assert server.environment["OPENAI_API_KEY"] not in stored


def test_names_are_unique_among_those_that_are_not_deleted(desk: NotebookDesk, database: Database) -> None:
    id_ = desk.create()
    with pytest.raises(Conflict, match="named 'first' already"):
        desk.create()
    desk.store.delete(desk.caller, id_)
    with pytest.raises(NotFound):
        desk.store.get(desk.project_id, id_)
    desk.create()
    found: list[str] = []

    def race() -> None:
        try:
            found.append(desk.create("second"))
        except Conflict as error:
            found.append(error.code)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found)[1:].count("notebook_exists") + sorted(found)[:1].count("notebook_exists") == 3


def test_an_end_counts_once_and_for_its_own_start_alone(desk: NotebookDesk, keys: Keys, owner: KeyOwner) -> None:
    id_ = desk.running()
    desk.scripted.say(id_, ServerPhase.FAILED, "out_of_memory", "It used too much.")
    failed = desk.reconciled(id_)
    assert (failed.status, failed.error_code) == (Status.FAILED, "out_of_memory")
    assert desk.reconciled(id_) == failed
    # What can't start may wait for its image for days, and hold its quota.
    assert desk.scripted.calls == [("start", id_), ("stop", id_)]
    desk.store.start(desk.caller, id_)
    # What the port says about the start before counts no more.
    started = desk.reconciled(id_)
    assert (started.status, started.error_code) == (Status.QUEUED, None)
    assert len(own_keys(keys, owner)) == 1


def test_what_a_killed_platform_ran_has_failed(desk: NotebookDesk) -> None:
    id_ = desk.running()
    desk.scripted.statuses.clear()
    lost = desk.reconciled(id_)
    assert (lost.status, lost.error_code) == (Status.FAILED, "interrupted")


def test_a_deleted_notebook_leaves_nothing(desk: NotebookDesk, database: Database, keys: Keys, owner: KeyOwner) -> None:
    id_ = desk.running()
    desk.store.delete(desk.caller, id_)
    desk.reconciler.reconcile_all(seconds=10)
    assert ("remove", id_) in desk.scripted.calls
    assert own_keys(keys, owner) == []
    with database.read() as session:
        assert session.rows(select(notebooks)) == []


def test_notebooks_of_archived_projects_stop(desk: NotebookDesk, database: Database) -> None:
    id_ = desk.running()
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1))
    desk.reconciler.reconcile_all(seconds=10)
    assert desk.store.get(desk.project_id, id_).status is Status.STOPPED


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"image_uri": "evil:1"}, "image.uri"),
        ({"image_type": "unknown"}, "image.type"),
        ({"image_type": "other", "image_uri": "registry.example/lab:1"}, "image.uri"),
        ({"gpu_count": 1}, "resources.gpu_count"),
        ({"amounts": {"memory_megabytes": 1}}, "resources.memory_megabytes"),
        ({"amounts": {"storage_megabytes": 10**9}}, "resources.storage_megabytes"),
        ({"ports": [80]}, "additional_exposed_ports"),
        ({"ports": [8000, 8888]}, "additional_exposed_ports"),
        ({"ports": [3128]}, "additional_exposed_ports"),
        ({"ports": [65536]}, "additional_exposed_ports"),
        ({"ports": [8000, 8000]}, "additional_exposed_ports"),
        ({"envs": {"A B": ""}}, "envs"),
        ({"envs": {"A": "\0"}}, "envs"),
        ({"envs": {f"A{number}": "ä" * 8192 for number in range(60)}}, "envs"),
    ],
)
def test_what_no_notebook_may_have_is_refused(desk: NotebookDesk, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        desk.store.create(desk.caller, replace(NewNotebook("made"), **fields))
    assert refused.value.param == param


def test_installations_without_notebooks_say_so(desk: NotebookDesk) -> None:
    id_ = desk.running()
    desk.port = None
    with pytest.raises(Unavailable) as refused:
        desk.create("second")
    assert refused.value.code == "no_notebooks"
    assert desk.reconciled(id_).status is Status.FAILED


def test_a_project_has_a_limited_number(database: Database, keys: Keys, owner: KeyOwner) -> None:
    desk = NotebookDesk(database, keys, owner, project_notebooks=1)
    desk.create()
    with pytest.raises(Conflict, match="as many as it may have"):
        desk.create("second")


def test_links_open_a_notebook_once(desk: NotebookDesk, database: Database) -> None:
    id_ = desk.running()
    secret = desk.access.make_link(desk.caller, id_)
    cookie = desk.access.redeem_link(id_, secret)
    with pytest.raises(AuthenticationFailed):
        desk.access.redeem_link(id_, secret)
    opened = desk.access.open_with_cookie(id_, cookie)
    assert opened.token == desk.scripted.servers[id_].token
    other = desk.running("second")
    for wrong in ("", cookie[:-2], "x.y.z"):
        with pytest.raises(AuthenticationFailed):
            desk.access.open_with_cookie(id_, wrong)
    with pytest.raises(AuthenticationFailed):
        desk.access.open_with_cookie(other, cookie)
    late = desk.access.make_link(desk.caller, id_)
    with database.write() as session:
        session.run(update(notebooks).values(link_expires_at=1))
    with pytest.raises(AuthenticationFailed):
        desk.access.redeem_link(id_, late)


def test_a_notebook_is_its_owners_unless_it_is_shared(desk: NotebookDesk, database: Database) -> None:
    own, shared = desk.running(), desk.running("second", shared=True)
    somebody = replace(desk.caller, user_id="user_else")
    with pytest.raises(PermissionDenied):
        desk.access.make_link(somebody, own)
    assert desk.access.make_link(somebody, shared)


def test_its_owner_alone_shares_a_notebook_and_takes_that_back(desk: NotebookDesk, keys: Keys, owner: KeyOwner) -> None:
    id_ = desk.running()
    somebody = replace(desk.caller, user_id="user_else")
    with pytest.raises(PermissionDenied) as refused:
        desk.access.set_shared(somebody, id_, shared=True)
    assert refused.value.code == "not_notebook_owner"
    narrow, _ = keys.create(owner, NewKey("narrow", frozenset({"api.workspaces.notebooks.write"})))
    with pytest.raises(PermissionDenied):
        desk.access.set_shared(replace(desk.caller, key_id=narrow.id), id_, shared=True)
    desk.access.set_shared(desk.caller, id_, shared=True)
    link = desk.access.make_link(somebody, id_)
    desk.access.set_shared(desk.caller, id_, shared=True)  # no change: the link stays
    desk.access.set_shared(desk.caller, id_, shared=False)
    with pytest.raises(AuthenticationFailed):
        desk.access.redeem_link(id_, link)
    with pytest.raises(PermissionDenied):
        desk.access.make_link(somebody, id_)
    with pytest.raises(NotFound):
        desk.access.set_shared(desk.caller, "nb-unknown", shared=True)


def test_a_key_opens_no_notebook_that_may_do_more(
    desk: NotebookDesk, keys: Keys, owner: KeyOwner, database: Database
) -> None:
    id_ = desk.running()
    scopes = frozenset({"api.workspaces.notebooks.write"})
    narrow, _ = keys.create(owner, NewKey("narrow", scopes))
    bound, _ = keys.create(owner, NewKey("bound", desk.caller.scopes, allowed_models=("tiny",)))
    whole, _ = keys.create(owner, NewKey("whole", desk.caller.scopes))
    for key in (narrow, bound):
        with pytest.raises(PermissionDenied) as refused:
            desk.access.open(replace(desk.caller, key_id=key.id), id_)
        assert refused.value.code == "notebook_exceeds_key"
    assert desk.access.open(replace(desk.caller, key_id=whole.id), id_).token
    # A notebook that was made with a bound key is bound itself.
    caller = replace(desk.caller, key_id=bound.id)
    made = desk.store.create(caller, NewNotebook("bound")).id
    desk.reconciler.reconcile(made)
    issued = keys.by_secret(desk.scripted.servers[made].environment["OPENAI_API_KEY"])
    assert issued is not None
    assert issued.allowed_models == ("tiny",)
    with database.read() as session:
        assert json.loads(str(session.value(select(notebooks.c.key_models).where(notebooks.c.id == made)))) == ["tiny"]


def test_the_key_of_a_notebook_ends_with_the_key_that_started_it(
    desk: NotebookDesk, keys: Keys, owner: KeyOwner
) -> None:
    brief, _ = keys.create(owner, NewKey("brief", desk.caller.scopes, expires_in=600))
    caller = replace(desk.caller, key_id=brief.id)
    id_ = desk.store.create(caller, NewNotebook("brief")).id

    def end_of_its_key() -> int | None:
        desk.reconciler.reconcile(id_)
        issued = keys.by_secret(desk.scripted.servers[id_].environment["OPENAI_API_KEY"])
        assert issued is not None
        return issued.expires_at

    assert brief.expires_at is not None
    assert (end_of_its_key() or 2**60) <= brief.expires_at
    # Nor does a further start renew what the key could do.
    desk.store.stop(caller, id_)
    desk.reconciler.reconcile(id_)
    desk.store.start(caller, id_)
    assert (end_of_its_key() or 2**60) <= brief.expires_at


def test_a_cookie_counts_in_the_networks_of_the_key_it_was_made_with(
    desk: NotebookDesk, keys: Keys, owner: KeyOwner
) -> None:
    id_ = desk.running()
    bound, _ = keys.create(owner, NewKey("bound", desk.caller.scopes, allowed_sources=("192.0.2.0/24",)))

    def open_from_both() -> None:
        client_address.set("192.0.2.7")
        cookie = desk.access.redeem_link(id_, desk.access.make_link(replace(desk.caller, key_id=bound.id), id_))
        assert desk.access.open_with_cookie(id_, cookie).token
        client_address.set("198.51.100.7")
        with pytest.raises(PermissionDenied) as refused:
            desk.access.open_with_cookie(id_, cookie)
        assert refused.value.code == "source_not_allowed"

    contextvars.copy_context().run(open_from_both)


class EndedBetween:
    """A database in which something happens between the next read and the write that follows."""

    def __init__(self, database: Database, happens: Callable[[], object]) -> None:
        self._database = database
        self._happens = happens

    def read(self) -> Any:
        return self._database.read()

    def write(self) -> Any:
        happens, self._happens = self._happens, lambda: None
        happens()
        return self._database.write()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_a_notebook_that_ends_while_its_project_is_archived_has_ended(desk: NotebookDesk, database: Database) -> None:
    id_ = desk.running()
    with database.write() as session:
        session.run(update(projects).where(projects.c.id == desk.project_id).values(archived_at=1))
    desk.scripted.say(id_, ServerPhase.STOPPED)
    racing = desk.reconciler_on(cast(Database, EndedBetween(database, lambda: desk.reconciler.reconcile(id_))))
    racing.reconcile_all(seconds=10)
    assert desk.store.get(desk.project_id, id_).status is Status.STOPPED


def test_variables_of_a_notebook_are_shown_to_those_who_may_use_it(desk: NotebookDesk) -> None:
    somebody = replace(desk.caller, user_id="user_else")
    reader = replace(somebody, scopes=frozenset({"api.workspaces.notebooks.read"}))
    for shared in (False, True):
        made = desk.store.get(desk.project_id, desk.create(f"shared-{shared}", envs={"TOKEN": "s3cr3t"}, shared=shared))
        assert notebook_object(made, desk.caller)["envs"] == {"TOKEN": "s3cr3t"}
        assert notebook_object(made, somebody)["envs"] == ({"TOKEN": "s3cr3t"} if shared else {})
        for each in (reader, replace(reader, user_id=desk.caller.user_id)):
            assert notebook_object(made, each)["envs"] == {}


def test_a_late_report_changes_nothing(desk: NotebookDesk) -> None:
    id_ = desk.running()
    desk.store.stop(desk.caller, id_)
    desk.scripted.statuses[id_] = ServerStatus(1, ServerPhase.STOPPED, 9.0)
    assert desk.reconciled(id_).stopped_at == 9.0
    desk.scripted.statuses[id_] = ServerStatus(1, ServerPhase.FAILED, 10.0, "interrupted", "It was killed.")
    assert desk.reconciled(id_).status is Status.STOPPED
