"""Which replica holds a cluster's connections, by the database."""

from __future__ import annotations

import time

from sqlalchemy import update

from llmariner.clusters.clusters import Clusters
from llmariner.platform.database import Database
from llmariner.sessions.access import namespaces_of
from llmariner.sessions.connection_leases import ConnectionLeases
from llmariner.sessions.tables import tunnel_connections

from ..team import PEPPER, Team


def test_leases_end_return_with_a_renewal_and_go_with_their_cluster(database: Database, team: Team) -> None:
    clusters, leases = Clusters(database, PEPPER), ConnectionLeases(database)
    cluster_id = clusters.register(team.admin, "gpu-west")[0].id
    leases.add("first", cluster_id, "http://first")
    with database.write() as session:
        session.run(update(tunnel_connections).values(expires_at=time.time() - 60))
    assert leases.replicas(cluster_id) == []
    leases.add("second", cluster_id, "http://second")  # an agent connects when the database is back
    leases.renew(["first", "unknown"])
    assert sorted(leases.replicas(cluster_id)) == ["http://first", "http://second"]
    leases.remove("first")
    leases.remove("first")
    assert leases.replicas(cluster_id) == ["http://second"]
    clusters.delete(team.admin, cluster_id, drain=False, operator=False)
    assert leases.replicas(cluster_id) == []
    with database.read() as session:
        assert namespaces_of(session, "proj_unknown", cluster_id) == frozenset()
