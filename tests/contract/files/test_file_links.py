"""Links to files: what a token is bound to, when it ends, two secrets in rotation, and what the audit log says."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import InvalidRequest, NotFound, PermissionDenied, RateLimited
from llmariner.file_settings import FileSettings
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.links import FileLinks, OpenedLink
from llmariner.files.purposes import Purpose
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.authentication.signed_tokens import sign
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects
from llmariner.settings import Secret
from llmariner.tenancy.background_work import BackgroundTokens, Originator
from llmariner.tenancy.keys.store import KeyOwner, NewKey
from llmariner.tenancy.principal import Caller

from ..team import Team

READ, SECRET, PREVIOUS = "api.files.read", Secret("s" * 64), Secret("t" * 64)
NewLinks = Callable[..., FileLinks]


@pytest.fixture
def store(database: Database, tmp_path: Path) -> Files:
    return Files(database, FolderObjects(tmp_path / "objects"), FileSettings())


@pytest.fixture
def new_links(database: Database, store: Files) -> NewLinks:
    """Links as another process or installation has them."""

    def make(*secrets: Secret, **settings: Any) -> FileLinks:
        store.settings = replace(store.settings, **settings)
        return FileLinks(database, store, secrets or (SECRET,))

    return make


@pytest.fixture
def links(new_links: NewLinks) -> FileLinks:
    return new_links()


def put(store: Files, owner: KeyOwner) -> File:
    with store.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(b"hello")
        return store.save(owner, NewFile("a.txt", Purpose.USER_DATA, "text/plain"), content)


@pytest.fixture
def file(store: Files, owner: KeyOwner) -> File:
    return put(store, owner)


def refusal(links: FileLinks, token: str, file_id: str) -> PermissionDenied:
    with pytest.raises(PermissionDenied) as refused:
        links.open(token, file_id)
    return refused.value


def test_a_link_gives_its_makers_right_to_read_one_file(links: FileLinks, file: File, team: Team) -> None:
    link = links.create(team.admin, file.id, 60)
    assert (link.file_id, link.expires_at) == (file.id, link.created_at + 60)
    found = links.open(link.token, file.id)
    assert (found.id, found.file_id) == (link.id, file.id)
    assert (found.maker.user_id, found.maker.key_owner.project_id) == (team.admin.user_id, file.project_id)
    assert found.maker.scopes == {READ}


def test_a_link_to_anothers_file_is_refused_as_one_to_an_unknown_file(
    links: FileLinks, store: Files, other_owner: KeyOwner, team: Team
) -> None:
    theirs = put(store, other_owner)
    with pytest.raises(NotFound) as foreign:
        links.create(team.admin, theirs.id, 60)
    with pytest.raises(NotFound) as unknown:
        links.create(team.admin, "file-x", 60)
    assert foreign.value.message.replace(theirs.id, "file-x") == unknown.value.message


@pytest.mark.parametrize("seconds", [0, -1, 3601])
def test_a_lifetime_beyond_the_limit_is_refused(seconds: int, new_links: NewLinks, file: File, team: Team) -> None:
    links = new_links(link_seconds=3600)
    with pytest.raises(InvalidRequest, match="from 1 to 3600"):
        links.create(team.admin, file.id, seconds)
    assert links.create(team.admin, file.id, 3600).token


def test_no_changed_token_is_valid(links: FileLinks, store: Files, file: File, owner: KeyOwner, team: Team) -> None:
    token = links.create(team.admin, file.id, 60).token
    invalid = refusal(links, "x", file.id)
    assert invalid.code == "invalid_link"
    # The last character has bits that are not of the signature.
    for at in range(len(token) - 1):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert refusal(links, changed, file.id).message == invalid.message
    for foreign in ("", ".", "a.b.c", "é.é.é", "x" * 10_000, token + "x", token.rpartition(".")[0], token * 5):
        assert refusal(links, foreign, file.id).message == invalid.message
    for other in (put(store, owner).id, "file-unknown", ""):
        assert refusal(links, token, other).message == invalid.message


def test_each_claim_needs_a_new_signature(links: FileLinks, file: File, team: Team) -> None:
    header, body, signature = links.create(team.admin, file.id, 60).token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    changed = {
        "aud": "other",
        "exp": claims["exp"] + 1,
        "file": "file-2",
        "jti": "link_2",
        "user": "user_2",
        "key": "k",
    }
    assert claims.keys() <= changed.keys()
    for name, value in changed.items():
        text = json.dumps({**claims, name: value}).encode()
        forged = base64.urlsafe_b64encode(text).rstrip(b"=").decode()
        assert refusal(links, f"{header}.{forged}.{signature}", file.id).code == "invalid_link"


def test_tokens_for_other_purposes_are_no_links(links: FileLinks, file: File, team: Team) -> None:
    for token in (
        ServiceTokens(SECRET.reveal(), issuer="function", audience="internal_gateway").token(),
        BackgroundTokens(SECRET).issue(Originator.of(team.admin)),
        sign({"file": file.id}, SECRET.reveal().encode()),
    ):
        assert refusal(links, token, file.id).code == "invalid_link"


def test_the_database_decides_when_a_link_has_expired(
    links: FileLinks, file: File, team: Team, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, short = links.create(team.admin, file.id, 60).token, links.create(team.admin, file.id, 1)
    # SQLite's time is that of the process, so both change; PostgreSQL's is its own, and only the process is wrong.
    now = time.time()
    on_sqlite = team.database.url.startswith("sqlite")
    for moved, expired in ((-86_400, False), (59, False), (61, on_sqlite), (86_400, on_sqlite)):
        monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
        if expired:
            assert refusal(links, token, file.id).code == "link_expired"
        else:
            links.open(token, file.id)
    monkeypatch.undo()
    with database.read() as session:
        time.sleep(max(0.0, short.expires_at - session.now()) + 0.01)
    assert refusal(links, short.token, file.id).code == "link_expired"


def test_links_of_the_previous_secret_stay_valid(new_links: NewLinks, file: File, team: Team) -> None:
    before, during, after = new_links(PREVIOUS), new_links(SECRET, PREVIOUS), new_links(SECRET)
    old, new = before.create(team.admin, file.id, 60).token, during.create(team.admin, file.id, 60).token
    for token in (old, new):
        during.open(token, file.id)
    after.open(new, file.id)
    assert refusal(after, old, file.id).code == "invalid_link"
    assert refusal(before, new, file.id).code == "invalid_link"


def test_a_link_ends_with_its_file(links: FileLinks, store: Files, file: File, team: Team) -> None:
    token = links.create(team.admin, file.id, 60).token
    store.delete(team.admin, file.id)
    with pytest.raises(NotFound, match="deleted"):
        links.open(token, file.id)


def key_caller(team: Team, **fields: Any) -> Caller:
    _, secret = team.keys.create(team.owner, NewKey(f"key {len(fields)}", frozenset({READ}), **fields))
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    return caller


def test_a_link_ends_with_the_key_that_made_it(links: FileLinks, file: File, team: Team) -> None:
    revoked, changed = key_caller(team), key_caller(team, allowed_sources=("10.0.0.0/8",))
    tokens = [links.create(caller, file.id, 60).token for caller in (revoked, changed)]
    first, second = (links.open(token, file.id).maker for token in tokens)
    assert (first.key_id, first.allowed_sources) == (revoked.key_id, None)
    assert (second.key_id, second.allowed_sources) == (changed.key_id, ("10.0.0.0/8",))
    team.keys.revoke(team.owner, revoked.key_id or "")
    team.keys.update(team.owner, changed.key_id or "", scopes=frozenset({"api.model.read"}))
    for token in tokens:
        assert refusal(links, token, file.id).code == "link_revoked"


def test_a_link_ends_when_its_maker_leaves_or_the_project_is_archived(
    links: FileLinks, store: Files, team: Team
) -> None:
    project = team.project()
    person = team.person("ann@example.org", **{project: "member"})
    theirs = put(store, KeyOwner(person.user_id, project, person.organization_id))
    token = links.create(replace(person, project_id=project), theirs.id, 60).token
    others = links.create(replace(team.admin, project_id=project), theirs.id, 60).token
    links.open(token, theirs.id)
    team.members.remove_from_project(team.admin, project, person.user_id)
    assert refusal(links, token, theirs.id).code == "link_revoked"
    links.open(others, theirs.id)
    team.projects.archive(team.admin, project)
    assert refusal(links, others, theirs.id).code == "link_revoked"


def entries(database: Database) -> Sequence[tuple[str, Any, Any]]:
    query = select(audit_log).where(audit_log.c.type.like("file.link.%")).order_by(audit_log.c.sequence)
    with database.read() as session:
        return [(row.type, json.loads(row.payload), json.loads(row.actor)) for row in session.rows(query)]


def test_links_and_their_first_uses_are_audited(links: FileLinks, file: File, team: Team, database: Database) -> None:
    link = links.create(key_caller(team), file.id, 60)
    opened = links.open(link.token, file.id)
    for address in ("192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2"):
        links.audit_use(opened, address)
    created, first, second = entries(database)
    assert created[:2] == (
        "file.link.created",
        {"id": link.id, "data": {"file_id": file.id, "expires_at": link.expires_at}},
    )
    for used in (first, second):
        assert used[:2] == ("file.link.used", {"id": link.id, "data": {"file_id": file.id}})
        assert used[2]["api_key"]["id"] == opened.maker.key_id
    assert link.token not in json.dumps(entries(database))


def test_a_use_that_could_not_be_audited_is_audited_the_next_time(
    links: FileLinks, file: File, team: Team, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = links.open(links.create(team.admin, file.id, 60).token, file.id)

    def fail(*_: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as broken:
        broken.setattr(database, "transact", fail)
        with pytest.raises(ConnectionError):
            links.audit_use(opened, "192.0.2.1")
    links.audit_use(opened, "192.0.2.1")
    assert [entry[0] for entry in entries(database)] == ["file.link.created", "file.link.used"]


def test_each_link_has_a_rate_of_its_own(new_links: NewLinks, file: File, team: Team) -> None:
    links = new_links(link_requests_per_minute=2)
    one, other = (links.create(team.admin, file.id, 60).token for _ in range(2))

    def use(token: str) -> OpenedLink:
        return links.open(token, file.id)

    use(one), use(one), use(other)
    with pytest.raises(RateLimited) as limited:
        use(one)
    assert 1 <= int(limited.value.headers["retry-after"]) <= 31
    use(other)
