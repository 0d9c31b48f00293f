"""Links to upload: what a token is bound to, that it makes one file, when it ends, and what is recorded of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, PermissionDenied, PlatformError
from llmariner.file_settings import FileSettings
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.links import FileLinks
from llmariner.files.purposes import Purpose
from llmariner.files.upload_links import UploadLinks, UploadTerms
from llmariner.files.uploads import Uploads
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import Secret
from llmariner.tenancy.keys.store import NewKey

from ..team import Team

SECRET = Secret("s" * 64)
NEW = NewFile("Ergebnis é 報告.txt", Purpose.USER_DATA, "text/plain", 7200)


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "objects")


@pytest.fixture
def store(database: Database, objects: FolderObjects) -> Files:
    return Files(database, objects, FileSettings())


@pytest.fixture
def links(database: Database) -> UploadLinks:
    return UploadLinks(database, FileSettings(), [SECRET])


@pytest.fixture
def use(links: UploadLinks, store: Files) -> Callable[..., File]:
    """Make a file by a link."""

    def used(token: str, data: bytes = b"hello") -> File:
        link = links.open(token)
        owner = link.maker.key_owner
        with store.receive(owner, purpose=link.terms.new.purpose, size_bytes=0, limit_bytes=99) as content:
            content.write(data)
            return store.save(
                owner, link.terms.new, content, lambda session, file: links.record_use(session, link, file)
            )

    return used


def refusal(links: UploadLinks, token: str) -> PlatformError:
    with pytest.raises((Conflict, PermissionDenied)) as refused:
        links.open(token)
    return refused.value


def test_a_link_carries_its_terms_and_its_makers_right(links: UploadLinks, team: Team) -> None:
    for said in ({}, {"size_bytes": 0}, {"max_bytes": 7, "sha256": "AB" * 32}):
        terms = links.terms(NEW, **said)
        link = links.create(team.admin, terms, 60)
        opened = links.open(link.token)
        assert (opened.id, opened.terms, opened.expires_at) == (link.id, terms, link.created_at + 60)
        assert (opened.maker.user_id, opened.maker.scopes) == (team.admin.user_id, frozenset({"api.files.write"}))
        assert opened.maker.key_owner == team.admin.key_owner
    assert links.terms(NEW) == UploadTerms(NEW, FileSettings().upload_bytes)
    assert links.terms(NEW, size_bytes=5) == UploadTerms(NEW, 5, 5)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"size_bytes": -1}, "bytes"),
        ({"size_bytes": (8 << 30) + 1}, "bytes"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"max_bytes": 1, "size_bytes": 1}, "max_bytes"),
        ({"sha256": ""}, "sha256"),
        ({"sha256": "x" * 64}, "sha256"),
        ({"sha256": "a" * 63}, "sha256"),
    ],
)
def test_terms_that_no_file_can_keep_are_refused(said: dict[str, Any], param: str, links: UploadLinks) -> None:
    with pytest.raises(InvalidRequest) as refused:
        links.terms(NEW, **said)
    assert refused.value.param == param


def test_a_link_makes_one_file(
    links: UploadLinks, use: Callable[..., File], store: Files, team: Team, database: Database, objects: FolderObjects
) -> None:
    link = links.create(team.admin, links.terms(NEW), 60)
    opened = links.open(link.token)
    file = use(link.token)
    assert (file.filename, file.purpose, file.content_type) == (NEW.filename, NEW.purpose, NEW.content_type)
    assert file.expires_at == file.created_at + 7200
    used = refusal(links, link.token)
    assert (used.code, used.details, used.headers["x-should-retry"]) == ("link_used", {"file_id": file.id}, "false")
    # Deleted or not, and whatever the sweep deletes.
    store.delete(team.admin, file.id)
    Uploads(database, objects, FileSettings()).prune()
    assert refusal(links, link.token).code == "link_used"
    with database.read() as session:
        types = [row.type for row in session.rows(select(events).where(events.c.subject == f"uploads/{link.id}"))]
        entries = session.rows(
            select(audit_log).where(audit_log.c.type.like("upload.link.%")).order_by(audit_log.c.sequence)
        )
    assert types == ["ai.llmariner.upload.completed.v1"]
    assert [(row.type, json.loads(row.payload)["id"]) for row in entries] == [
        ("upload.link.created", link.id),
        ("upload.link.used", link.id),
    ]
    assert json.loads(entries[1].payload)["data"] == {"file_id": file.id}
    assert opened.maker.user_id in entries[1].actor


def test_of_concurrent_uses_one_makes_the_file(
    links: UploadLinks,
    store: Files,
    team: Team,
    objects: FolderObjects,
    run_concurrently: Callable[..., list[Any]],
) -> None:
    opened = links.open(links.create(team.admin, links.terms(NEW), 60).token)
    owner = team.admin.key_owner

    def one(number: int) -> File | str | None:
        with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
            content.write(b"%d" % (number % 2))  # some have the same content
            try:
                return store.save(owner, NEW, content, lambda session, file: links.record_use(session, opened, file))
            except Conflict as error:
                return error.code

    found = run_concurrently([lambda number=number: one(number) for number in range(4)])
    [file] = [each for each in found if isinstance(each, File)]
    assert [each for each in found if each != file] == ["link_used"] * 3
    assert [info.key for info in objects.list("")] == [file.content_key]
    assert store.count(owner.project_id, purpose=None) == 1


def test_a_link_of_one_kind_is_none_of_the_other(
    links: UploadLinks, use: Callable[..., File], store: Files, team: Team, database: Database
) -> None:
    downloads = FileLinks(database, store, [SECRET])
    token = links.create(team.admin, links.terms(NEW), 60).token
    file = use(links.create(team.admin, links.terms(NEW), 60).token)
    assert refusal(links, downloads.create(team.admin, file.id, 60).token).code == "invalid_link"
    with pytest.raises(PermissionDenied) as refused:
        downloads.open(token, file.id)
    assert refused.value.code == "invalid_link"
    for changed in ("", token[:-9], token + "x", token.replace(".", "A", 1)):
        assert refusal(links, changed).code == "invalid_link"
    assert refusal(UploadLinks(database, FileSettings(), [Secret("t" * 64)]), token).code == "invalid_link"
    UploadLinks(database, FileSettings(), [Secret("t" * 64), SECRET]).open(token)


def test_a_link_ends_with_its_makers_right_and_its_time(links: UploadLinks, team: Team) -> None:
    key, secret = team.keys.create(team.owner, NewKey("k", frozenset({"api.files.write"})))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    token = links.create(caller, links.terms(NEW), 60).token
    opened = links.open(token)
    links.check_still_allowed(opened)
    team.keys.update(team.owner, key.id, scopes=frozenset({"api.files.read"}))
    assert refusal(links, token).code == "link_revoked"
    with pytest.raises(PermissionDenied):
        links.check_still_allowed(opened)
    short = links.create(team.admin, links.terms(NEW), 1)
    with team.database.read() as session:
        time.sleep(max(0.0, short.expires_at - session.now()) + 0.01)
    assert refusal(links, short.token).code == "link_expired"
    for seconds in (0, -1, FileSettings().link_seconds + 1):
        with pytest.raises(InvalidRequest):
            links.create(team.admin, links.terms(NEW), seconds)
