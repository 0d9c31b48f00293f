"""Keys of the installation's operators may still approve models after the upgrade; no other key may."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import MetaData, select, text

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import downgrade, upgrade

ALL, FEW = "api.model.write api.organizations.write", "api.model.write"
# Key: its organization, its user's role there, its scopes, and those after the upgrade.
KEYS = {
    "runs": ("org_default", "owner", ALL, f"{ALL} api.model.admin"),
    "reads": ("org_default", "reader", ALL, ALL),
    "narrow": ("org_default", "owner", FEW, FEW),
    "other": ("org_other", "owner", ALL, ALL),
}


def scopes(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.id: row.scopes for row in session.rows(text("SELECT id, scopes FROM api_keys"))}


def test_only_operators_keys_get_the_new_scope(new_database: Callable[[], Database]) -> None:
    database = new_database()
    upgrade(database, "0010")
    tables = MetaData()
    tables.reflect(database.engine, only=["organizations", "projects", "users", "organization_users", "api_keys"])
    known, at = tables.tables, {"created_at": 1}
    with database.write() as session:
        for id_ in ("org_default", "org_other"):
            session.add(known["organizations"], id=id_, title=id_, is_default=id_ == "org_default", **at)
            session.add(known["projects"], id=id_, organization_id=id_, title=id_, is_default=False, **at)
        for name, (organization, role, said, _) in KEYS.items():
            session.add(known["users"], id=name, email=f"{name}@example.org", **at)
            session.add(known["organization_users"], organization_id=organization, user_id=name, role=role, **at)
            place = {"organization_id": organization, "project_id": organization, "user_id": name}
            needed = {
                "name": name,
                "digest": name,
                "prefix": name,
                "revision": 1,
                "kind": "user",
                "excluded_from_rate_limiting": False,
            }
            row = {"id": name, **place, **needed, "scopes": said, **at}
            session.add(known["api_keys"], **{column: row[column] for column in row if column in known["api_keys"].c})
    upgrade(database, "0011")
    assert scopes(database) == {name: after for name, (*_, after) in KEYS.items()}
    downgrade(database, "0010")
    with database.read() as session:
        assert session.value(select(known["api_keys"].c.scopes).where(known["api_keys"].c.id == "runs")) == ALL
