"""What awaits somebody who signs in: invitations to their e-mail, and the roles of their groups.

A membership that people made stays as they made it. Groups give and take only what groups gave, so nobody is locked out by
a mapping, and who leaves a group leaves what it gave. Only an organisation's last owner stays, whatever the groups say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select, update

from llmariner.audit import log
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.identity import Identity
from llmariner.tenancy.standing import changed
from llmariner.tenancy.tables import (
    group_roles,
    invites,
    organization_users,
    organizations,
    project_users,
    projects,
    users,
)

__all__ = ["Arrival"]

# Of two groups' roles the first of these; a role that the organisation made stands between what it owns and the rest.
_RANKS = ("owner", "role_", "member", "tenant_system", "reader", "viewer")


@dataclass(frozen=True)
class _Place:
    """An organisation, or one of its projects."""

    organization_id: str
    project_id: str | None = None


@dataclass(frozen=True)
class _Held:
    role: str
    of_group: bool


class Arrival:
    """One person's memberships, as they are and as they should be. Read when made; `settle` writes.

    `newcomer_role`: what the person becomes if nothing awaits them: `reader` of the default organisation, `member` of
    its default project, or `none`.
    """

    def __init__(self, session: ReadSession, user_id: str, identity: Identity, *, newcomer_role: str = "none") -> None:
        self._user_id = user_id
        self._email = str(session.value(select(users.c.email).where(users.c.id == user_id)))
        self._held = dict(_memberships(session, user_id))
        self._invites = list(_open_invites(session, self._email)) if identity.email_verified else []
        self._given = _given(session, identity)
        self._last_of = {place for place, held in self._held.items() if _is_last_owner(session, user_id, place, held)}
        self._newcomer = _newcomer(session, newcomer_role)

    def changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._invites) or bool(self._wanted())

    def settle(self, session: WriteSession) -> None:
        """Make it so."""
        told: list[tuple[str, str | None, str, dict[str, Any]]] = []
        for invite in self._invites:
            self._accept(session, invite)
            told.append((invite.organization_id, None, "invite.accepted", {"id": invite.id}))
        for place, role in sorted(self._wanted().items(), key=lambda each: each[0].project_id is not None):
            self._set(session, place, role, of_group=True)
            told.append(self._told(place, role))
        if not self._held:
            for place, role in self._newcomer:
                self._set(session, place, role, of_group=False)
                told.append(self._told(place, role))
        if told:
            changed(session, user_ids=[self._user_id])
        # In the order of organisations: each entry locks its chain.
        for organization_id, project_id, type_, payload in sorted(told, key=lambda each: each[0]):
            log.add(session, None, type_, payload, organization_id=organization_id, project_id=project_id)

    def _wanted(self) -> dict[_Place, str | None]:
        """What groups have to change; None: the membership goes. Empty where the token says nothing of groups."""
        if self._given is None:
            return {}
        wanted: dict[_Place, str | None] = {
            place: role
            for place, role in self._given.items()
            if place not in self._last_of
            and ((held := self._held.get(place)) is None or (held.of_group and held.role != role))
        }
        left = {place for place, held in self._held.items() if held.of_group and place not in self._given}
        left -= self._last_of
        ending = {place.organization_id for place in left if place.project_id is None}
        # Nobody is in a project of an organisation that they left.
        left |= {place for place in self._held if place.organization_id in ending}
        return {**wanted, **dict.fromkeys(left)}

    def _accept(self, session: WriteSession, invite: Any) -> None:
        self._set(session, _Place(invite.organization_id), invite.role, of_group=False, keep=True)
        for each in json.loads(invite.projects):
            live = select(projects.c.id).where(
                projects.c.id == each["id"],
                projects.c.organization_id == invite.organization_id,
                projects.c.archived_at.is_(None),
            )
            if session.value(live) is not None:
                self._set(session, _Place(invite.organization_id, each["id"]), each["role"], of_group=False, keep=True)
        session.run(update(invites).where(invites.c.id == invite.id).values(accepted_at=int(time.time())))

    def _set(
        self, session: WriteSession, place: _Place, role: str | None, *, of_group: bool, keep: bool = False
    ) -> None:
        """Give, change or (None) end a membership. `keep`: one that people made before stays as it is."""
        held = self._held.get(place)
        if held is not None and keep and not held.of_group:
            return
        table = project_users if place.project_id else organization_users
        key = {"organization_id": place.organization_id, "user_id": self._user_id}
        if place.project_id:
            key["project_id"] = place.project_id
        one = and_(*(table.c[name] == value for name, value in key.items()))
        if role is None:
            session.run(table.delete().where(one))
            self._held.pop(place, None)
            return
        if held is None:
            session.add(table, **key, role=role, of_group=of_group, created_at=int(time.time()))
        else:
            session.run(update(table).where(one).values(role=role, of_group=of_group))
        self._held[place] = _Held(role, of_group)

    def _told(self, place: _Place, role: str | None) -> tuple[str, str | None, str, dict[str, Any]]:
        type_ = "user.deleted" if role is None else "user.added"
        payload: dict[str, Any] = {"id": self._user_id} | ({"data": {"role": role}} if role else {})
        return place.organization_id, place.project_id, type_, payload


def _memberships(session: ReadSession, user_id: str) -> Iterable[tuple[_Place, _Held]]:
    for row in session.rows(select(organization_users).where(organization_users.c.user_id == user_id)):
        yield _Place(row.organization_id), _Held(row.role, row.of_group)
    for row in session.rows(select(project_users).where(project_users.c.user_id == user_id)):
        yield _Place(row.organization_id, row.project_id), _Held(row.role, row.of_group)


def _is_last_owner(session: ReadSession, user_id: str, place: _Place, held: _Held) -> bool:
    if place.project_id is not None or held.role != "owner":
        return False
    others = select(organization_users.c.user_id).where(
        organization_users.c.organization_id == place.organization_id,
        organization_users.c.role == "owner",
        organization_users.c.user_id != user_id,
    )
    return session.first(others) is None


def _open_invites(session: ReadSession, email: str) -> Iterable[Any]:
    query = select(invites).where(
        invites.c.email == email,
        invites.c.accepted_at.is_(None),
        invites.c.revoked_at.is_(None),
        invites.c.expires_at > int(time.time()),
    )
    return session.rows(query.order_by(invites.c.created_at, invites.c.id))


def _given(session: ReadSession, identity: Identity) -> dict[_Place, str] | None:
    """What the person's groups give, the strongest role of each place. None where the token says nothing of groups."""
    if identity.groups is None:
        return None
    query = (
        select(group_roles)
        .outerjoin(projects, projects.c.id == group_roles.c.project_id)
        .where(
            group_roles.c.issuer == identity.issuer,
            group_roles.c.group_name.in_(identity.groups),
            projects.c.archived_at.is_(None),
        )
    )
    given: dict[_Place, str] = {}
    for row in session.rows(query):
        place = _Place(row.organization_id, row.project_id)
        given[place] = min(given.get(place, row.role), row.role, key=_rank)
        # Whoever is in a project is in its organisation.
        given.setdefault(_Place(row.organization_id), "reader")
    return given


def _rank(role: str) -> tuple[int, str]:
    return next((at for at, known in enumerate(_RANKS) if role.startswith(known)), len(_RANKS)), role


def _newcomer(session: ReadSession, role: str) -> list[tuple[_Place, str]]:
    if role == "none":
        return []
    organization_id = session.value(select(organizations.c.id).where(organizations.c.is_default))
    if organization_id is None:
        return []
    given = [(_Place(organization_id), "reader")]
    project_id = session.value(
        select(projects.c.id).where(projects.c.organization_id == organization_id, projects.c.is_default)
    )
    return [*given, (_Place(organization_id, project_id), "member")] if role == "member" and project_id else given
