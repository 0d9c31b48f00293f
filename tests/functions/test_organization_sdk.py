"""OpenAI's own client administers an organization; every response is validated against the client's types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import update

from llmariner.errors import AuthenticationFailed
from llmariner.tenancy.members.memberships import Members
from llmariner.tenancy.sign_in.refused_sign_ins import RefusedSignIns
from llmariner.tenancy.tables import user_groups, users

from .http_calls import InProcessClient
from .installation import Installation

Do = Callable[[Callable[[Any], Coroutine[Any, Any, Any]]], Any]
BASE_URL = "http://platform.test/v1"


def openai_client(router: Any, secret: str) -> AsyncOpenAI:
    """A client whose requests go to the functions of this process."""
    transport = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=router, raise_app_exceptions=True))
    return AsyncOpenAI(
        api_key="unused",
        admin_api_key=secret,
        base_url=BASE_URL,
        http_client=transport,
        max_retries=0,
        _strict_response_validation=True,
    )


@pytest.fixture
def do(router: Any, installation: Installation, in_process: InProcessClient) -> Do:
    """`do(lambda organization: …)`: run a coroutine with `client.admin.organization`, by the owner's key."""
    client = openai_client(router, installation.keys.admin)
    return lambda work: in_process.runner.run(work(client.admin.organization))


async def collect(pages: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in pages]


def test_the_lifecycle_of_a_project(do: Do) -> None:
    async def work(organization: Any) -> None:
        made = await organization.projects.create(name="SDK")
        assert (made.object, made.name, made.status) == ("organization.project", "SDK", "active")
        assert (await organization.projects.retrieve(made.id)).id == made.id
        assert (await organization.projects.update(made.id, name="SDK 2")).name == "SDK 2"
        ended = await organization.projects.archive(made.id)
        assert (ended.status, ended.archived_at is not None) == ("archived", True)
        live = [project.id for project in await collect(organization.projects.list(limit=1))]
        all_ = [project.id for project in await collect(organization.projects.list(limit=1, include_archived=True))]
        assert made.id not in live
        assert made.id in all_
        assert len(all_) == len(set(all_))

    do(work)


def test_users_of_a_project_and_of_the_organization(do: Do, new_person: Callable[[str], str]) -> None:
    ann, bob = new_person("Ann@SDK.example"), new_person("bob@sdk.example")

    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="people")
        users = organization.projects.users
        added = await users.create(project.id, user_id=ann, role="member")
        assert (added.id, added.role, added.email) == (ann, "member", "ann@sdk.example")
        await users.create(project.id, email="BOB@sdk.example", role="owner")
        assert (await users.retrieve(bob, project_id=project.id)).role == "owner"
        assert (await users.update(ann, project_id=project.id, role="viewer")).role == "viewer"
        roles = {user.id: user.role for user in await collect(users.list(project.id, limit=1))}
        assert (roles[ann], roles[bob], len(roles)) == ("viewer", "owner", 3)
        assigned = await users.roles.create(ann, project_id=project.id, role_id="member")
        assert (assigned.role.id, assigned.user.id) == ("member", ann)
        [role] = await collect(users.roles.list(ann, project_id=project.id))
        assert (role.id, role.predefined_role) == ("member", True)
        assert (await users.delete(ann, project_id=project.id)).deleted
        whole = organization.users
        [found] = await collect(whole.list(emails=["ANN@sdk.example"]))
        assert (found.id, found.role, found.projects.data) == (ann, "reader", [])
        assert [entry.name for entry in (await whole.retrieve(bob)).projects.data] == ["people"]
        assert (await whole.update(ann, role="owner")).role == "owner"
        assert (await whole.roles.delete("owner", user_id=ann)).deleted
        assert (await whole.delete(ann)).object == "organization.user.deleted"
        with pytest.raises(openai.NotFoundError):
            await whole.retrieve(ann)

    do(work)


def test_service_accounts_and_their_keys(do: Do) -> None:
    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="robots")
        accounts, keys = organization.projects.service_accounts, organization.projects.api_keys
        made = await accounts.create(project.id, name="ci", expires_in_seconds=3600)
        assert (made.name, made.role) == ("ci", "member")
        assert made.api_key.value.startswith("sk-")
        assert made.api_key.expires_at is not None
        bare = await accounts.create(project.id, name="bare", create_service_account_only=True)
        assert bare.api_key is None
        second = await accounts.api_keys.create(
            made.id, project_id=project.id, name="second", scopes=["api.inference.write"]
        )
        assert {account.id for account in await collect(accounts.list(project.id, limit=1))} == {made.id, bare.id}
        listed = {key.id: key for key in await collect(keys.list(project.id, limit=1))}
        assert set(listed) == {made.api_key.id, second.id}
        assert (listed[second.id].owner.type, listed[second.id].owner.service_account.id) == (
            "service_account",
            made.id,
        )
        assert second.value not in listed[second.id].redacted_value
        changed = await keys.update(second.id, project_id=project.id, scopes=["api.model.read"], expires_in_seconds=60)
        assert (changed.scopes, changed.expires_at is not None) == (["api.model.read"], True)
        assert (await keys.delete(second.id, project_id=project.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await keys.retrieve(second.id, project_id=project.id)
        renamed = await accounts.update(made.id, project_id=project.id, name="ci 2", role="owner")
        assert (renamed.name, renamed.role) == ("ci 2", "owner")
        assert (await accounts.delete(made.id, project_id=project.id)).deleted
        assert await collect(keys.list(project.id)) == []
        with pytest.raises(openai.NotFoundError):
            await accounts.retrieve(made.id, project_id=project.id)

    do(work)


def test_permitted_models_of_a_project(do: Do) -> None:
    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="models")
        permissions = organization.projects.model_permissions
        before = await permissions.retrieve(project.id)
        assert (before.mode, before.api_model_ids) == ("deny_list", [])
        only = await permissions.update(project.id, mode="allow_list", model_ids=["tiny"])
        assert (only.mode, only.api_model_ids) == ("allow_list", ["tiny"])
        assert (await permissions.delete(project.id)).deleted
        assert (await permissions.retrieve(project.id)).mode == "deny_list"

    do(work)


def test_an_admin_key_only_administers(
    do: Do, router: Any, in_process: InProcessClient, installation: Installation
) -> None:
    async def make(organization: Any) -> Any:
        return await organization.admin_api_keys.create(name="sdk admin", expires_in_seconds=3600)

    made = do(make)
    assert made.value.startswith("sk-admin-")

    async def use(organization: Any) -> None:
        assert made.id in [key.id for key in await collect(organization.admin_api_keys.list(limit=1))]
        found = await organization.admin_api_keys.retrieve(made.id)
        assert (found.name, found.owner.role, found.redacted_value) == ("sdk admin", "owner", made.redacted_value)
        assert (await organization.projects.create(name="by an admin key")).name == "by an admin key"

    client = openai_client(router, made.value)
    in_process.runner.run(use(client.admin.organization))
    chatting = AsyncOpenAI(api_key=made.value, base_url=BASE_URL, http_client=client._client, max_retries=0)

    async def chat() -> None:
        messages: Any = [{"role": "user", "content": "hello"}]
        await chatting.chat.completions.create(model="tiny", messages=messages)

    with pytest.raises(openai.AuthenticationError):
        in_process.runner.run(chat())
    assert do(lambda organization: organization.admin_api_keys.delete(made.id)).deleted
    with pytest.raises(openai.AuthenticationError):
        in_process.runner.run(use(client.admin.organization))


def test_invitations(do: Do) -> None:
    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="invited to")
        invites = organization.invites
        made = await invites.create(
            email="Cy@sdk.example", role="reader", projects=[{"id": project.id, "role": "member"}]
        )
        assert (made.email, made.status, made.role) == ("cy@sdk.example", "pending", "reader")
        assert [(promised.id, promised.role) for promised in made.projects] == [(project.id, "member")]
        assert len(made.token) > 20
        assert made.id in [invite.id for invite in await collect(invites.list(limit=1))]
        assert not hasattr(await invites.retrieve(made.id), "token")
        with pytest.raises(openai.ConflictError):
            await invites.create(email="cy@SDK.example", role="reader")
        assert (await invites.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await invites.retrieve(made.id)

    do(work)


def test_roles_of_the_organization_and_of_a_project(do: Do, new_person: Callable[[str], str]) -> None:
    dee = new_person("dee@sdk.example")

    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="roles")
        for roles, resource, where in (
            (organization.roles, "api.organization", {}),
            (organization.projects.roles, "api.project", {"project_id": project.id}),
        ):
            made = await roles.create(**where, role_name="auditor", permissions=["api.events.read"], description="x")
            assert (made.name, made.resource_type, made.predefined_role) == ("auditor", resource, False)
            listed = [role.id for role in await collect(roles.list(**where, limit=2))]
            assert listed == list(dict.fromkeys(listed))
            assert {"owner", made.id} <= set(listed)
            changed = await roles.update(made.id, **where, permissions=["api.files.read"], role_name="reader of files")
            assert (changed.permissions, changed.name) == (["api.files.read"], "reader of files")
            with pytest.raises(openai.BadRequestError):
                await roles.update("owner", **where, permissions=["api.files.read"])
            if where:
                await organization.projects.users.create(project.id, user_id=dee, role="viewer")
                assign = organization.projects.users.roles
            else:
                assign = organization.users.roles
            assert (await assign.create(dee, **where, role_id=made.id)).role.id == made.id
            assert (await assign.retrieve(made.id, user_id=dee, **where)).name == "reader of files"
            with pytest.raises(openai.BadRequestError):
                await roles.delete(made.id, **where)
            assert (await assign.delete(made.id, user_id=dee, **where)).deleted
            assert (await roles.delete(made.id, **where)).deleted

    do(work)


@pytest.fixture
def issuer(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of the installation, for one test."""
    url = "https://issuer.example"
    monkeypatch.setitem(installation.context.env, "LLMARINER_OIDC_ISSUER", url)
    return url


def test_without_an_issuer_there_are_no_groups(do: Do) -> None:
    with pytest.raises(openai.BadRequestError, match="no issuer"):
        do(lambda organization: organization.groups.create(name="staff"))


def test_groups_of_the_issuer_and_their_roles(do: Do, issuer: str) -> None:
    async def work(organization: Any) -> None:
        groups = organization.groups
        made = await groups.create(name="staff")
        assert (made.name, made.group_type, made.is_scim_managed) == ("staff", "group", True)
        with pytest.raises(openai.ConflictError):
            await groups.create(name="staff")
        assert made.id in [group.id for group in await collect(groups.list(limit=1))]
        assert (await groups.update(made.id, name="everybody")).name == "everybody"
        assert (await groups.retrieve(made.id)).name == "everybody"
        for role in ("tenant_system", "reader"):
            given = await groups.roles.create(made.id, role_id=role)
            assert (given.group.name, given.role.id) == ("everybody", role)
        assert [role.id for role in await collect(groups.roles.list(made.id))] == ["reader"]
        assert (await groups.roles.retrieve("reader", group_id=made.id)).predefined_role
        with pytest.raises(openai.NotFoundError):
            await groups.roles.delete("owner", group_id=made.id)
        assert (await groups.roles.delete("reader", group_id=made.id)).deleted
        assert (await groups.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await groups.retrieve(made.id)
        acts = organization.audit_logs.list(resource_ids=[made.id])
        assert [act.type for act in await collect(acts)] == ["group.deleted", "group.updated", "group.created"]

    do(work)


def test_group_members_come_from_the_issuer(
    do: Do, issuer: str, installation: Installation, new_person: Callable[[str], str]
) -> None:
    fay, gus = (new_person(f"{name}@sdk.example") for name in ("fay", "gus"))
    for user_id, said in ((fay, ["a", "people"]), (gus, ['more "people'])):
        reported = {"issuer": issuer, "subject": user_id, "groups_at": 1}
        with installation.context.database.write() as session:
            session.run(update(users).where(users.c.id == user_id).values(**reported))
            session.insert_many_if_absent(
                user_groups, [{"user_id": user_id, "name": name, "issuer": issuer} for name in said]
            )

    async def work(organization: Any) -> None:
        group, members = await organization.groups.create(name="people"), organization.groups.users
        assert [user.email for user in await collect(members.list(group.id))] == ["fay@sdk.example"]
        found = await members.retrieve(fay, group_id=group.id)
        assert found.user_type == "user"
        assert found.model_fields_set >= set(type(found).model_fields)
        with pytest.raises(openai.NotFoundError):
            await members.retrieve(gus, group_id=group.id)
        with pytest.raises(openai.BadRequestError, match="kept by its issuer"):
            await members.create(group.id, user_id=gus)
        with pytest.raises(openai.BadRequestError, match="kept by its issuer"):
            await members.delete(fay, group_id=group.id)

    do(work)


def test_groups_of_a_project(do: Do, issuer: str) -> None:
    async def work(organization: Any) -> None:
        group = await organization.groups.create(name="guests")
        project, inside = await organization.projects.create(name="of groups"), organization.projects.groups
        added = await inside.create(project.id, group_id=group.id, role="viewer")
        assert (added.group_name, added.project_id) == ("guests", project.id)
        assert [each.group_id for each in await collect(inside.list(project.id))] == [group.id]
        assert (await inside.retrieve(group.id, project_id=project.id)).group_id == group.id
        roles = inside.roles
        assert (await roles.create(group.id, project_id=project.id, role_id="member")).role.id == "member"
        assert [role.id for role in await collect(roles.list(group.id, project_id=project.id))] == ["member"]
        assert (await roles.retrieve("member", project_id=project.id, group_id=group.id)).name == "member"
        assert (await roles.delete("member", project_id=project.id, group_id=group.id)).deleted
        assert await collect(inside.list(project.id)) == []
        await inside.create(project.id, group_id=group.id, role="owner")
        assert (await inside.delete(group.id, project_id=project.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await inside.retrieve(group.id, project_id=project.id)

    do(work)


def test_the_audit_log_has_all_mutations(do: Do) -> None:
    async def work(organization: Any) -> None:
        project = await organization.projects.create(name="audited")
        await organization.projects.archive(project.id)
        of_it = organization.audit_logs.list(resource_ids=[project.id], limit=1, effective_at={"gte": 1})
        found = await collect(of_it)
        assert [entry.type for entry in found] == ["project.archived", "project.created"]
        assert found[1].project_created.data.title == "audited"
        assert found[0].actor.type == "api_key"
        assert found[0].actor.api_key.user.email == "admin@localhost"
        only = organization.audit_logs.list(resource_ids=[project.id], event_types=["project.created"])
        assert len(await collect(only)) == 1

    do(work)


def test_a_rejected_sign_in_has_a_type_that_the_client_knows(do: Do, installation: Installation) -> None:
    forged = AuthenticationFailed("It was forged.", code="invalid_token")
    RefusedSignIns(installation.context.database).record(forged, source="192.0.2.77")

    async def work(organization: Any) -> None:
        found = await collect(organization.audit_logs.list(event_types=["login.failed"]))
        [act] = [act for act in found if act.actor.session.ip_address == "192.0.2.77"]
        assert (act.login_failed.error_code, act.login_failed.error_message) == ("invalid_token", "It was forged.")
        assert (act.login_failed.count, act.actor.session.user.id) == (1, None)

    do(work)


def test_errors_have_the_clients_types(do: Do) -> None:
    async def refused(call: Awaitable[Any]) -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as found:
            await call
        return found.value

    async def work(organization: Any) -> None:
        assert isinstance(await refused(organization.projects.retrieve("proj_nobody")), openai.NotFoundError)
        assert isinstance(await refused(organization.projects.create(name="")), openai.BadRequestError)
        taken = await organization.projects.create(name="taken")
        assert isinstance(await refused(organization.projects.create(name=taken.name)), openai.ConflictError)
        nobody = await refused(organization.projects.users.create(taken.id, role="member", email="no@where.example"))
        assert isinstance(nobody, openai.NotFoundError)
        assert isinstance(
            await refused(organization.projects.users.create(taken.id, role="member")), openai.BadRequestError
        )

    do(work)


@pytest.fixture
def new_person(do: Do, installation: Installation) -> Callable[[str], str]:
    """Makes members of the organization: `new_person(email)` returns their id."""
    owner = installation.owner
    caller = installation.context.authenticator.caller_for_user(owner.user_id, owner.organization_id, owner.project_id)
    return lambda email: Members(installation.context.database).add(caller, email, "reader").user_id
