"""Clusters are registered, and their agents known by keyed hashes of their registration keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.clusters import tables
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID
from llmariner.clusters.clusters import MAX_OVERLAP_SECONDS, Clusters
from llmariner.clusters.registration_keys import RegistrationKeys
from llmariner.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.principal import Caller, KeyOwner

from ..team import PEPPER, Team


@pytest.fixture
def clusters(database: Database) -> Clusters:
    return Clusters(database, PEPPER)


@pytest.fixture
def keys(database: Database) -> RegistrationKeys:
    return RegistrationKeys(database, PEPPER)


@pytest.fixture
def admin(team: Team) -> Caller:
    return team.admin


def is_valid(keys: RegistrationKeys, key: str) -> bool:
    try:
        agent = keys.authenticate(key)
    except AuthenticationFailed:
        return False
    return keys.valid([agent.digest, "0" * 64]) == {agent.digest}


def test_a_key_is_returned_once_and_stored_as_a_keyed_hash(
    clusters: Clusters, keys: RegistrationKeys, admin: Caller, database: Database
) -> None:
    cluster, key = clusters.register(admin, "  gpu-west ")
    assert (cluster.name, cluster.organization_id) == ("gpu-west", admin.organization_id)
    assert key.startswith("clusterkey-")
    assert keys.authenticate(key).cluster == cluster == clusters.get(admin.organization_id, cluster.id)
    with database.read() as session:
        row = session.first(select(tables.clusters).where(tables.clusters.c.id == cluster.id))
        entries = session.rows(select(audit_log.c.payload).where(audit_log.c.type == "cluster.created"))
    assert row is not None
    assert all(key not in str(value) for value in row)
    assert [json.loads(entry.payload) for entry in entries] == [{"id": cluster.id, "data": {"name": "gpu-west"}}]
    other = RegistrationKeys(database, Secret("q" * 32))
    for wrong in (key[:-1], "", "clusterkey-", "sk-" + key[11:]):
        assert not is_valid(keys, wrong)
    assert not is_valid(other, key)


def test_a_rotated_key_works_beside_the_new_one_until_its_overlap_ends(
    clusters: Clusters, keys: RegistrationKeys, admin: Caller, database: Database
) -> None:
    cluster, first = clusters.register(admin, "gpu-west")
    changed, second = clusters.rotate_key(admin, cluster.id, overlap=60, operator=False)
    assert is_valid(keys, first)
    assert is_valid(keys, second)
    assert changed.previous_key_expires_at is not None
    with database.write() as session:
        session.run(update(tables.clusters).values(previous_expires_at=1.0))
    assert not is_valid(keys, first)
    assert is_valid(keys, second)
    _, third = clusters.rotate_key(admin, cluster.id, overlap=0, operator=False)
    assert [is_valid(keys, key) for key in (first, second, third)] == [False, False, True]
    for overlap in (-1, MAX_OVERLAP_SECONDS + 1):
        with pytest.raises(InvalidRequest):
            clusters.rotate_key(admin, cluster.id, overlap=overlap, operator=False)


def test_a_revoked_key_is_out_with_the_one_before_it(clusters: Clusters, keys: RegistrationKeys, admin: Caller) -> None:
    cluster, first = clusters.register(admin, "gpu-west")
    _, second = clusters.rotate_key(admin, cluster.id, overlap=60, operator=False)
    for _ in range(2):
        assert clusters.revoke_key(admin, cluster.id, operator=False).key_prefix is None
    assert not is_valid(keys, first)
    assert not is_valid(keys, second)
    _, third = clusters.rotate_key(admin, cluster.id, overlap=60, operator=False)
    assert is_valid(keys, third)
    clusters.delete(admin, cluster.id, drain=False, operator=False)
    assert not is_valid(keys, third)


@pytest.mark.parametrize("name", ["", "a" * 65, "two\nlines", "default", "cluster-local", f"Cluster-{'0' * 22}"])
def test_an_invalid_name_is_refused(clusters: Clusters, admin: Caller, name: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        clusters.register(admin, name)
    assert raised.value.param == "name"


def test_a_name_is_unique_in_its_organization_also_where_two_register_at_once(
    clusters: Clusters,
    admin: Caller,
    other_owner: KeyOwner,
    team: Team,
    run_concurrently: Callable[..., list[Any]],
) -> None:
    results = run_concurrently([lambda: clusters.register(admin, "gpu-west")] * 4)
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 3 + ["tuple"]
    outsider = Caller(
        other_owner.user_id, "eve@example.org", other_owner.organization_id, None, "owner", None, frozenset()
    )
    clusters.register(outsider, "gpu-west")


def test_a_cluster_is_unknown_to_other_organizations(clusters: Clusters, admin: Caller, other_owner: KeyOwner) -> None:
    cluster, _ = clusters.register(admin, "gpu-west")
    outsider = Caller(
        other_owner.user_id, "eve@example.org", other_owner.organization_id, None, "owner", None, frozenset()
    )
    for change in (
        lambda: clusters.get(outsider.organization_id, cluster.id),
        lambda: clusters.rotate_key(outsider, cluster.id, overlap=0, operator=True),
        lambda: clusters.revoke_key(outsider, cluster.id, operator=True),
        lambda: clusters.set_drain(outsider, cluster.id, drain=True, operator=True),
        lambda: clusters.delete(outsider, cluster.id, drain=False, operator=True),
    ):
        with pytest.raises(NotFound):
            change()
    assert [each.id for each in clusters.page(outsider.organization_id, after=None, limit=10)[0]] == [LOCAL_CLUSTER_ID]


def test_the_cluster_of_the_control_plane_is_everybodys_and_its_operators_to_change(
    clusters: Clusters, keys: RegistrationKeys, admin: Caller
) -> None:
    with pytest.raises(PermissionDenied):
        clusters.set_drain(admin, LOCAL_CLUSTER_ID, drain=True, operator=False)
    assert clusters.set_drain(admin, LOCAL_CLUSTER_ID, drain=True, operator=True).drain_requested_at is not None
    with pytest.raises(Conflict):
        clusters.delete(admin, LOCAL_CLUSTER_ID, drain=False, operator=True)
    _, key = clusters.rotate_key(admin, LOCAL_CLUSTER_ID, overlap=60, operator=True)
    assert keys.authenticate(key).cluster.is_local


def test_pages_are_in_order_and_end(clusters: Clusters, admin: Caller) -> None:
    made = [clusters.register(admin, f"gpu-{number}")[0].id for number in range(3)]
    seen: list[str] = []
    more = True
    while more:
        page, more = clusters.page(admin.organization_id, after=seen[-1] if seen else None, limit=2)
        seen += [each.id for each in page]
    assert seen == [*made, LOCAL_CLUSTER_ID]


def test_draining_begins_once_and_ends(clusters: Clusters, admin: Caller) -> None:
    cluster, _ = clusters.register(admin, "gpu-west")
    since = clusters.set_drain(admin, cluster.id, drain=True, operator=False).drain_requested_at
    assert clusters.set_drain(admin, cluster.id, drain=True, operator=False).drain_requested_at == since is not None
    assert clusters.set_drain(admin, cluster.id, drain=False, operator=False).drain_requested_at is None


def test_a_deleted_organization_has_no_clusters(
    clusters: Clusters, keys: RegistrationKeys, team: Team, owner: KeyOwner
) -> None:
    made = team.organizations.create(team.admin, "Acme")
    there = team.caller(owner.user_id, made.id)
    cluster, key = clusters.register(there, "gpu-west")
    assert team.organizations.delete(there)["clusters"] == [cluster.id]
    assert not is_valid(keys, key)
