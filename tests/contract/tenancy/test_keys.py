"""API keys: from creation to revocation, and which callers see them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound
from llmariner.platform.database import Database, metadata
from llmariner.platform.events.tables import events
from llmariner.settings import Secret
from llmariner.tenancy.keys.allowed_networks import is_allowed, parse_networks
from llmariner.tenancy.keys.last_use import LastUse
from llmariner.tenancy.keys.store import ApiKey, KeyOwner, Keys, KeySelector, NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES
from llmariner.tenancy.tables import api_keys

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]
SCOPES = frozenset({"api.model.read", "api.model.write"})


def new(name: str = "ci", **values: Any) -> NewKey:
    return NewKey(name, SCOPES, **values)


def reported(database: Database) -> list[tuple[str, str]]:
    """Every event so far: the end of its type and its subject."""
    with database.read() as session:
        rows = session.rows(select(events.c.type, events.c.subject).order_by(events.c.sequence))
    return [(row.type.removeprefix("ai.llmariner.api_key."), row.subject) for row in rows]


def everything(database: Database) -> str:
    """The whole content of the database, as text."""
    with database.read() as session:
        return repr([list(session.rows(table.select())) for table in metadata.sorted_tables])


def test_a_key_is_stored_as_requested(keys: Keys, owner: KeyOwner) -> None:
    before = int(time.time())
    key, secret = keys.create(owner, new(expires_in=60, excluded_from_rate_limiting=True))
    assert (key.name, key.scopes, key.excluded_from_rate_limiting) == ("ci", SCOPES, True)
    assert KeyOwner(key.user_id, key.project_id or "", key.organization_id) == owner
    assert before <= key.created_at <= time.time()
    assert key.expires_at == key.created_at + 60
    assert (key.last_used_at, key.revoked_at, key.previous_digest) == (None, None, None)
    assert (key.email, key.project_title) == ("admin@localhost", "Default Project")
    assert keys.get(owner, key.id) == key
    assert secret.startswith("sk-")
    assert len(secret) == 51


def test_the_secret_is_not_stored(keys: Keys, owner: KeyOwner, database: Database) -> None:
    key, first = keys.create(owner, new())
    _, second = keys.rotate(owner, key.id, overlap=60)
    held = everything(database)
    assert key.id in held
    for secret in (first, second):
        assert secret not in held
        assert secret[3:] not in held
        assert secret[10:-2] not in held


def test_the_digest_depends_on_the_pepper(keys: Keys, owner: KeyOwner, database: Database) -> None:
    _, secret = keys.create(owner, new())
    assert keys.by_secret(secret) is not None
    assert Keys(database, Secret("q" * 32)).by_secret(secret) is None


def test_a_name_is_unique_per_user_while_the_key_is_active(keys: Keys, owner: KeyOwner, other_owner: KeyOwner) -> None:
    key, _ = keys.create(owner, new())
    with pytest.raises(Conflict) as refused:
        keys.create(owner, new())
    assert refused.value.param == "name"
    keys.create(other_owner, new())
    keys.revoke(owner, key.id)
    again, _ = keys.create(owner, new())
    assert again.id != key.id


def test_one_of_concurrent_creations_of_a_name_succeeds(keys: Keys, owner: KeyOwner, run_concurrently: AtOnce) -> None:
    keys.create(owner, new("first"))
    found = run_concurrently([lambda: keys.create(owner, new())] * 5)
    assert sum(not isinstance(result, Conflict) for result in found) == 1
    assert [key.name for key in keys.of_project(owner)].count("ci") == 1


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_name_has_a_length_limit(keys: Keys, owner: KeyOwner, name: str) -> None:
    with pytest.raises(InvalidRequest):
        keys.create(owner, new(name))
    key, _ = keys.create(owner, new("x" * 256))
    with pytest.raises(InvalidRequest):
        keys.update(owner, key.id, name=name, excluded=None)


def test_a_name_may_be_in_any_script(keys: Keys, owner: KeyOwner) -> None:
    key, _ = keys.create(owner, new("Schlüssel 🔑 鍵"))
    assert keys.get(owner, key.id).name == "Schlüssel 🔑 鍵"


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2Jb", "a\u202eb", "a\u200bb", " "])
def test_a_name_is_printable(name: str, keys: Keys, owner: KeyOwner) -> None:
    with pytest.raises(InvalidRequest):
        keys.create(owner, new(name))
    key, _ = keys.create(owner, new("good"))
    with pytest.raises(InvalidRequest):
        keys.update(owner, key.id, name=name)


def test_a_project_lists_its_active_keys_newest_first(keys: Keys, owner: KeyOwner, other_owner: KeyOwner) -> None:
    made = [keys.create(owner, new(name))[0] for name in ("a", "b", "c")]
    keys.create(other_owner, new("d"))
    keys.revoke(owner, made[1].id)
    assert [key.name for key in keys.of_project(owner)] == ["c", "a"]


@pytest.mark.parametrize("whose", ["unknown", "another project's", "revoked"])
def test_an_invisible_key_is_not_found(keys: Keys, owner: KeyOwner, other_owner: KeyOwner, whose: str) -> None:
    key_id = {"unknown": "key_nobody"}.get(whose) or keys.create(owner, new())[0].id
    asker = other_owner if whose == "another project's" else owner
    if whose == "revoked":
        keys.revoke(owner, key_id)
    attempts: list[Callable[[], object]] = [
        lambda: keys.get(asker, key_id),
        lambda: keys.update(asker, key_id, name="x", excluded=None),
        lambda: keys.rotate(asker, key_id, overlap=0),
        lambda: keys.revoke(asker, key_id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            attempt()


def test_a_key_is_renamed(keys: Keys, owner: KeyOwner) -> None:
    key, secret = keys.create(owner, new())
    keys.create(owner, new("taken"))
    assert keys.update(owner, key.id, name="new", excluded=None).name == "new"
    assert keys.update(owner, key.id, name="new", excluded=True).excluded_from_rate_limiting
    assert keys.update(owner, key.id, name=None, excluded=False).name == "new"
    with pytest.raises(Conflict):
        keys.update(owner, key.id, name="taken", excluded=None)
    found = keys.by_secret(secret)
    assert found is not None
    assert (found.id, found.name) == (key.id, "new")


def test_after_a_rotation_both_secrets_are_valid(keys: Keys, owner: KeyOwner) -> None:
    key, first = keys.create(owner, new())
    before = time.time()
    rotated, second = keys.rotate(owner, key.id, overlap=60)
    assert rotated.digest == keys.digest(second)
    assert rotated.previous_digest == keys.digest(first)
    assert rotated.previous_expires_at is not None
    assert before + 60 <= rotated.previous_expires_at <= time.time() + 60
    assert rotated.prefix != key.prefix
    assert ids(keys.by_secret(first), keys.by_secret(second)) == [key.id, key.id]


def test_without_an_overlap_the_old_secret_is_invalid_at_once(keys: Keys, owner: KeyOwner) -> None:
    key, first = keys.create(owner, new())
    rotated, second = keys.rotate(owner, key.id, overlap=0)
    assert (rotated.previous_digest, rotated.previous_expires_at) == (None, None)
    assert ids(keys.by_secret(first), keys.by_secret(second)) == [None, key.id]


def test_a_second_rotation_invalidates_the_first_secret(keys: Keys, owner: KeyOwner) -> None:
    key, first = keys.create(owner, new())
    _, second = keys.rotate(owner, key.id, overlap=60)
    _, third = keys.rotate(owner, key.id, overlap=60)
    assert ids(*map(keys.by_secret, (first, second, third))) == [None, key.id, key.id]


@pytest.mark.parametrize("overlap", [-1, 30 * 86400 + 1])
def test_an_overlap_is_bounded(keys: Keys, owner: KeyOwner, overlap: int) -> None:
    key, secret = keys.create(owner, new())
    with pytest.raises(InvalidRequest) as refused:
        keys.rotate(owner, key.id, overlap=overlap)
    assert refused.value.param == "overlap_seconds"
    assert keys.by_secret(secret) is not None


def test_a_concurrently_changed_key_is_a_conflict_or_changed_afterwards(
    keys: Keys, owner: KeyOwner, run_concurrently: AtOnce
) -> None:
    key, _ = keys.create(owner, new())
    found = run_concurrently([lambda: keys.rotate(owner, key.id, overlap=60)] * 4)
    won = [result for result in found if not isinstance(result, Conflict)]
    assert won, found
    live = keys.get(owner, key.id)
    assert live.digest in {keys.digest(secret) for _, secret in won}


def test_a_revoked_key_is_found_by_its_digest_and_unusable(keys: Keys, owner: KeyOwner) -> None:
    key, secret = keys.create(owner, new())
    assert key.usable(time.time())
    keys.revoke(owner, key.id)
    found = keys.by_secret(secret)
    assert found is not None
    assert not found.usable(time.time())


def test_a_key_is_usable_until_the_second_of_its_expiry(keys: Keys, owner: KeyOwner) -> None:
    key, _ = keys.create(owner, new(expires_in=60))
    assert key.expires_at is not None
    assert key.usable(key.expires_at - 0.001)
    assert not key.usable(key.expires_at)


def test_an_unknown_digest_finds_nothing(keys: Keys, owner: KeyOwner) -> None:
    keys.create(owner, new())
    assert keys.by_digest("0" * 64) is None
    assert keys.by_secret("sk-nobody") is None
    assert keys.by_secret("") is None


def test_last_use_changes_no_revision(keys: Keys, owner: KeyOwner, database: Database) -> None:
    key, _ = keys.create(owner, new())
    LastUse(database).record({key.id: 1234567890, "key_gone": 1})
    noted = keys.get(owner, key.id)
    assert (noted.last_used_at, noted.revision) == (1234567890, key.revision)


def test_each_change_increments_the_revision_and_emits_an_event(
    keys: Keys, owner: KeyOwner, database: Database
) -> None:
    key, _ = keys.create(owner, new())
    seen = [key.revision]
    seen.append(keys.update(owner, key.id, name="new", excluded=None).revision)
    seen.append(keys.rotate(owner, key.id, overlap=0)[0].revision)
    keys.revoke(owner, key.id)
    with database.read() as session:
        seen.append(session.value(select(api_keys.c.revision)))
    assert seen == sorted(set(seen))
    subject = f"api_keys/{key.id}"
    assert reported(database) == [(f"{what}.v1", subject) for what in ("created", "updated", "updated", "revoked")]


def test_a_rejected_change_emits_nothing(keys: Keys, owner: KeyOwner, database: Database) -> None:
    keys.create(owner, new())
    with pytest.raises(Conflict):
        keys.create(owner, new())
    assert len(reported(database)) == 1


def test_changes_since_a_revision_are_the_keys_changed_after_it(keys: Keys, owner: KeyOwner) -> None:
    assert keys.changed_since(0) == (0, [])
    a, b = (keys.create(owner, new(name))[0] for name in "ab")
    newest, changed = keys.changed_since(0)
    assert (newest, set(changed)) == (b.revision, {a.id, b.id})
    assert keys.changed_since(newest) == (newest, [])
    keys.revoke(owner, a.id)
    assert keys.changed_since(newest)[1] == [a.id]
    assert keys.changed_since(newest + 100) == (newest + 100, [])


def test_a_revision_reader_misses_no_writer(keys: Keys, owner: KeyOwner, run_concurrently: AtOnce) -> None:
    made: list[str] = []
    met: list[str] = []

    def write(name: str) -> None:
        made.extend(keys.create(owner, new(f"{name}{number}"))[0].id for number in range(8))

    def follow() -> None:
        cursor, deadline = 0, time.monotonic() + 30
        while len(met) < 24 and time.monotonic() < deadline:
            cursor, changed = keys.changed_since(cursor)
            met.extend(changed)

    results = run_concurrently([lambda: write("a"), lambda: write("b"), lambda: write("c"), follow])
    assert results == [None] * 4
    assert sorted(met) == sorted(made)


def test_a_rotated_secret_is_rejected_after_its_overlap(keys: Keys, owner: KeyOwner, database: Database) -> None:
    key, first = keys.create(owner, new())
    rotated, _ = keys.rotate(owner, key.id, overlap=60)
    past = {"previous_expires_at": time.time() - 1}
    with database.write() as session:
        session.run(update(api_keys).where(api_keys.c.id == key.id).values(**past))
    found = keys.by_secret(first)
    assert found is not None
    assert found.previous_digest == keys.digest(first)
    assert found.previous_expires_at is not None
    assert found.previous_expires_at < time.time() < (rotated.previous_expires_at or 0)


def ids(*found: ApiKey | None) -> list[str | None]:
    return [key.id if key else None for key in found]


def test_restrictions_of_models_and_networks_are_stored(keys: Keys, owner: KeyOwner) -> None:
    made, _ = keys.create(owner, new(allowed_models=("a/b", "c"), allowed_sources=("192.0.2.7", "2001:DB8::/32")))
    assert (made.allowed_models, made.allowed_sources) == (("a/b", "c"), ("192.0.2.7/32", "2001:db8::/32"))
    plain, _ = keys.create(owner, new("plain"))
    assert (plain.allowed_models, plain.allowed_sources, plain.project_models) == (None, None, None)
    changed = keys.update(owner, made.id, allowed_models=None, expires_at=int(time.time()) + 60)
    assert (changed.allowed_models, changed.allowed_sources) == (None, ("192.0.2.7/32", "2001:db8::/32"))
    assert changed.expires_at is not None
    assert keys.update(owner, made.id, expires_at=None).expires_at is None
    assert keys.update(owner, made.id, scopes=frozenset({"api.files.read"})).scopes == {"api.files.read"}


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"allowed_models": ()}, "allowed_models"),
        ({"allowed_models": ("",)}, "allowed_models[0]"),
        ({"allowed_models": ("x",) * 1001}, "allowed_models"),
        ({"allowed_sources": ()}, "allowed_sources"),
        ({"allowed_sources": ("10.0.0.0/8", "10.1.2.3/8")}, "allowed_sources[1]"),
        ({"allowed_sources": ("localhost",)}, "allowed_sources[0]"),
        ({"allowed_sources": ("10.0.0.1",) * 101}, "allowed_sources"),
        ({"allowed_sources": ("fe80::1%eth0",)}, "allowed_sources[0]"),
    ],
)
def test_invalid_restrictions_are_reported_by_field(
    keys: Keys, owner: KeyOwner, values: dict[str, Any], param: str
) -> None:
    made, _ = keys.create(owner, new())
    for attempt in (lambda: keys.create(owner, new("x", **values)), lambda: keys.update(owner, made.id, **values)):
        with pytest.raises(InvalidRequest) as refused:
            attempt()
        assert refused.value.param == param
    with pytest.raises(InvalidRequest, match="future"):
        keys.update(owner, made.id, expires_at=int(time.time()))


def test_an_address_is_admitted_by_its_network() -> None:
    assert is_allowed(None, "203.0.113.9")
    listed = ("10.0.0.0/8", "2001:db8::/32")
    assert is_allowed(listed, "10.9.8.7")
    assert is_allowed(listed, "::ffff:10.9.8.7")
    assert is_allowed(listed, "2001:db8::1")
    assert not is_allowed(listed, "203.0.113.9")
    assert not is_allowed(listed, "unix:")
    assert not is_allowed(listed, "")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("::ffff:10.9.8.7", "10.9.8.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_ipv4_mapped_networks_are_stored_in_ipv4_form(said: str, kept: str) -> None:
    assert parse_networks([said]) == (kept,)
    older = not kept.startswith("2") and kept != "::/0"
    assert (
        is_allowed(parse_networks([said]), "::ffff:10.9.8.7") is is_allowed(parse_networks([said]), "10.9.8.7") is older
    )


def test_a_visibility_contains_its_keys(team: Team) -> None:
    project_id = team.project()
    ann = team.person("ann@example.org", **{project_id: "member"})
    mine, theirs = team.key(team.admin)[0], team.key(ann, project_id=project_id)[0]
    admins, _ = team.keys.create_admin(team.admin, new("ops"))
    here = team.admin.organization_id
    seen = {
        KeySelector(here): [theirs, mine],
        KeySelector(here, project_id): [theirs],
        KeySelector(here, user_id=ann.user_id): [theirs],
        KeySelector(here, project_id, team.admin.user_id): [],
        KeySelector(here, kind="admin"): [admins.id],
    }
    for view, ids in seen.items():
        assert [key.id for key in team.keys.matching(view)] == ids, view
        for key_id in {mine, theirs, admins.id} - set(ids):
            with pytest.raises(NotFound):
                team.keys.revoke(view, key_id)
    assert team.keys.matching(KeySelector("org_2")) == []


def test_an_admin_key_administers_and_has_no_project(team: Team) -> None:
    made, secret = team.keys.create_admin(team.admin, NewKey("ops", OWNER_SCOPES, expires_in=60))
    assert secret.startswith("sk-admin-")
    assert made.prefix.startswith("sk-admin-")
    assert len(made.prefix) < 20
    assert (made.kind, made.project_id, made.organization_role) == ("admin", None, "owner")
    caller = team.authenticator.authenticate(secret)
    assert caller is not None
    assert (caller.project_id, caller.is_owner) == (None, True)
    _, rotated = team.keys.rotate(KeySelector(made.organization_id, kind="admin"), made.id, overlap=0)
    assert rotated.startswith("sk-admin-")
    team.members.set_role(team.admin, team.person("ann@example.org", "owner").user_id, "owner")
    team.members.remove(team.caller(team.members.all(made.organization_id)[1].user_id), made.user_id)
    assert not team.authenticates(rotated)


def test_the_audit_log_names_the_actor(team: Team) -> None:
    made, secret = team.keys.create(team.owner, new(), actor=team.admin)
    team.keys.update(team.owner, made.id, name="other", actor=team.admin)
    team.keys.rotate(team.owner, made.id, overlap=0, actor=team.admin)
    team.keys.revoke(team.owner, made.id, actor=team.admin)
    with team.database.read() as session:
        rows = session.rows(select(audit_log).order_by(audit_log.c.sequence))
    assert [row.type.rpartition(".")[2] for row in rows] == ["created", "updated", "updated", "deleted"]
    assert {json.loads(row.payload)["id"] for row in rows} == {made.id}
    assert {json.loads(row.actor)["session"]["user"]["id"] for row in rows} == {team.admin.user_id}
    assert secret not in repr(rows)
