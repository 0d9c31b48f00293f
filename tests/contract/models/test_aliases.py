"""Aliases of models: what they point at, their history, who may move them, and names that collide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, PermissionDenied, PlatformError
from llmariner.limits.restrictions import caller_restriction
from llmariner.models import aliases as module
from llmariner.models.alias import Alias
from llmariner.models.aliases import ModelAliases
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.models.queries import ModelSelector
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import KeyOwner, Keys, NewKey
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import project_users, projects

from ..team import Team

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


@pytest.fixture
def aliases(database: Database) -> ModelAliases:
    return ModelAliases(database)


@pytest.fixture
def admin(database: Database, owner: KeyOwner) -> Caller:
    return Team(database, owner).admin


def loaded(registry: ModelRegistry, *names: str, project: str | None = None, task: Task = Task.GENERATE) -> None:
    for name in names:
        registry.create(NewModel(name, SourceRepository.LOCAL, "/models/x", project_id=project))
        registry.mark_loaded(name, folder="/models/x", size_bytes=1, task=task)


def history(aliases: ModelAliases, caller: Caller, name: str) -> list[tuple[int, str | None, str, str]]:
    found, _ = aliases.revisions(caller.key_owner.project_id, name, after=None, limit=100)
    return [(each.number, each.model, each.cause.value, each.reason) for each in found]


def bound(database: Database, keys: Keys, owner: KeyOwner, *models: str) -> Caller:
    """A caller by a key that is bound to some models."""
    _, secret = keys.create(
        owner, NewKey(f"bound to {models[0]}", frozenset({"api.model.write"}), allowed_models=models)
    )
    found = Team(database, owner).authenticator.authenticate(secret)
    assert found is not None
    return found


def allowed(database: Database, caller: Caller) -> set[str]:
    return set(caller_restriction(database, caller).models or ())


def test_each_change_is_a_revision_with_who_and_why(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, database: Database
) -> None:
    loaded(registry, "a", "b", "c")
    assert aliases.create(admin, "bot", "a", "first").revision == 1
    assert aliases.move(admin, "bot", "b", "better").model == "b"
    assert aliases.move(admin, "bot", "b", "again").revision == 2, "it points there already"
    assert aliases.roll_back(admin, "bot", None, "worse").model == "a"
    aliases.move(admin, "bot", "c", "")
    assert aliases.roll_back(admin, "bot", 2, "").model == "b"
    aliases.delete(admin, "bot")
    assert history(aliases, admin, "bot") == [
        (6, None, "deleted", ""),
        (5, "b", "rolled_back", ""),
        (4, "c", "moved", ""),
        (3, "a", "rolled_back", "worse"),
        (2, "b", "moved", "better"),
        (1, "a", "created", "first"),
    ]
    first, more = aliases.revisions(admin.key_owner.project_id, "bot", after=3, limit=1)
    assert ([each.number for each in first], more, first[0].user_id) == ([2], True, admin.user_id)
    with database.read() as session:
        rows = session.rows(
            select(audit_log).where(audit_log.c.type.like("model_alias.%")).order_by(audit_log.c.sequence)
        )
    assert [row.type.partition(".")[2] for row in rows] == ["created", *["moved"] * 4, "deleted"]
    with pytest.raises(NotFound):
        aliases.get(admin.key_owner.project_id, "bot")
    with pytest.raises(NotFound):
        aliases.move(admin, "bot", "a", "")
    assert aliases.create(admin, "bot", "a", "").revision == 7


def test_a_change_that_expects_another_revision_changes_nothing(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller
) -> None:
    loaded(registry, "a", "b")
    aliases.create(admin, "bot", "a", "")
    for revision in (2, 99):
        with pytest.raises(Conflict, match=r"points at 'a' by revision 1"):
            aliases.move(admin, "bot", "b", "", expected_revision=revision)
        with pytest.raises(Conflict):
            aliases.roll_back(admin, "bot", 1, "", expected_revision=revision)
    assert aliases.move(admin, "bot", "b", "", expected_revision=1).revision == 2


def test_of_two_movers_who_saw_the_same_one_wins(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, run_concurrently: AtOnce
) -> None:
    loaded(registry, "a", "b", "c")
    aliases.create(admin, "bot", "a", "")

    def move(model: str) -> Alias | PlatformError:
        try:
            return aliases.move(admin, "bot", model, "", expected_revision=1)
        except Conflict as error:
            return error

    ends = run_concurrently([lambda: move("b"), lambda: move("c")])
    assert sorted(type(end).__name__ for end in ends) == ["Alias", "Conflict"]
    assert len(history(aliases, admin, "bot")) == 2


def test_a_name_is_that_of_a_model_or_of_an_alias(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    loaded(registry, "a")
    loaded(registry, "mine", project=owner.project_id)
    loaded(registry, "theirs", project=other_owner.project_id)
    for taken in ("a", "mine"):
        with pytest.raises(Conflict):
            aliases.create(admin, taken, "a", "")
    aliases.create(admin, "theirs", "a", "")
    aliases.create(admin, "bot", "mine", "")
    with pytest.raises(Conflict):
        aliases.create(admin, "bot", "a", "")
    with pytest.raises(Conflict, match="alias"):
        registry.create(NewModel("bot", SourceRepository.LOCAL, "/x", project_id=owner.project_id))
    registry.create(NewModel("bot", SourceRepository.LOCAL, "/x", project_id=other_owner.project_id))
    # A shared model may have any name; within the project the alias continues to mean its own.
    loaded(registry, "bot2")
    aliases_before = aliases.targets(owner.project_id)
    for project, expected in ((owner.project_id, ["a", "mine"]), (other_owner.project_id, ["a", "theirs", "bot"])):
        registry_names = [each.name for each in registry.page(ModelSelector(project), after=None, limit=9)]
        assert set(expected) <= set(registry_names)
    with pytest.raises(InvalidRequest, match="alias itself"):
        aliases.create(admin, "other", "bot", "")
    assert aliases.targets(owner.project_id) == aliases_before == {"theirs": "a", "bot": "mine"}


def test_a_shared_model_made_later_does_not_take_an_aliass_name(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    loaded(registry, "a")
    aliases.create(admin, "bot", "a", "")
    loaded(registry, "bot")
    shown = {
        project: [each.name for each in registry.page(ModelSelector(project), after=None, limit=9)]
        for project in (owner.project_id, other_owner.project_id)
    }
    assert shown == {owner.project_id: ["a"], other_owner.project_id: ["a", "bot"]}
    loaded(registry, "b")
    aliases.move(admin, "bot", "b", "")
    assert aliases.targets(owner.project_id) == {"bot": "b"}, "the operator takes nobody's alias"
    aliases.delete(admin, "bot")
    listed = [each.name for each in registry.page(ModelSelector(owner.project_id), after=None, limit=9)]
    assert listed == ["a", "b", "bot"]
    with pytest.raises(Conflict):
        aliases.create(admin, "bot", "a", "")


def test_what_an_alias_names_stays(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    loaded(registry, "a")
    loaded(registry, "mine", project=owner.project_id)
    aliases.create(admin, "bot", "mine", "")
    with pytest.raises(InvalidRequest, match="The alias 'bot' points at"):
        registry.delete("mine", project_id=owner.project_id)
    registry.delete("mine", project_id=owner.project_id, even_if_aliased=True)
    aliases.move(admin, "bot", "a", "")
    registry.delete("a", project_id=None)  # a tenant's alias holds up nobody's shared model
    loaded(registry, "b")
    aliases.move(admin, "bot", "b", "")
    with pytest.raises(ModelNotFound):
        aliases.roll_back(admin, "bot", None, "")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@b", "a b", "-a", "a-", "ä", "a\0", "a" * 129])
def test_a_name_that_no_alias_may_have_is_refused(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, name: str
) -> None:
    loaded(registry, "m")
    with pytest.raises(InvalidRequest) as caught:
        aliases.create(admin, name, "m", "")
    assert caught.value.param == "alias"


def test_an_alias_points_at_what_answers_its_callers(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, other_owner: KeyOwner
) -> None:
    loaded(registry, "a")
    loaded(registry, "vectors", task=Task.EMBED)
    loaded(registry, "theirs", project=other_owner.project_id)
    registry.create(NewModel("loading", SourceRepository.LOCAL, "/x"))
    for model in ("nobody", "theirs", "theirs@proj_2"):
        with pytest.raises(ModelNotFound):
            aliases.create(admin, "bot", model, "")
    with pytest.raises(InvalidRequest, match="not loaded yet"):
        aliases.create(admin, "bot", "loading", "")
    aliases.create(admin, "bot", "a", "")
    with pytest.raises(InvalidRequest, match="'embed'"):
        aliases.move(admin, "bot", "vectors", "")
    for revision in (None, 2):
        with pytest.raises(InvalidRequest) as caught:
            aliases.roll_back(admin, "bot", revision, "")
        assert caught.value.param == "revision"


def test_an_alias_gives_a_bound_key_no_model(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, database: Database, keys: Keys, owner: KeyOwner
) -> None:
    loaded(registry, "a", "b", "c")
    aliases.create(admin, "bot", "a", "")
    by_model, by_alias = bound(database, keys, owner, "b"), bound(database, keys, owner, "bot")
    assert allowed(database, by_model) == {"b"}
    assert allowed(database, by_alias) == {"bot", "a"}
    for caller, model in ((by_model, "c"), (by_alias, "c"), (by_alias, "b")):
        with pytest.raises(PermissionDenied):
            aliases.move(caller, "bot", model, "")
    assert aliases.move(by_model, "bot", "b", "").model == "b"
    assert allowed(database, by_alias) == {"bot", "b"}
    with pytest.raises(PermissionDenied):
        aliases.roll_back(by_alias, "bot", None, "")
    # Members move aliases, so one in the list of a project stands for nothing.
    with database.write() as session:
        mine = projects.c.id == owner.project_id
        session.run(projects.update().where(mine).values(model_mode="allow", model_ids='["bot"]'))
    assert allowed(database, by_alias) == {"bot"}
    with pytest.raises(PermissionDenied):
        aliases.move(admin, "bot", "a", "")


def test_an_alias_of_another_project_is_not_found(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, other_owner: KeyOwner
) -> None:
    loaded(registry, "a")
    aliases.create(admin, "bot", "a", "")
    for call in (
        lambda: aliases.get(other_owner.project_id, "bot"),
        lambda: aliases.revisions(other_owner.project_id, "bot", after=None, limit=1),
    ):
        with pytest.raises(NotFound):
            call()
    assert aliases.page(other_owner.project_id, after=None, limit=9) == ([], False)


def test_a_project_has_so_many_aliases_and_so_much_history(
    aliases: ModelAliases, registry: ModelRegistry, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_MAX_ALIASES", 3), ("_MAX_DELETED", 2), ("_MAX_REVISIONS", 4)):
        monkeypatch.setattr(module, name, value)
    loaded(registry, "a", "b")
    project_id = admin.key_owner.project_id
    for name in ("x", "y", "z"):
        aliases.create(admin, name, "a", "")
    with pytest.raises(Conflict) as caught:
        aliases.create(admin, "w", "a", "")
    assert caught.value.code == "too_many_aliases"
    page, more = aliases.page(project_id, after="x", limit=1)
    assert ([each.name for each in page], more) == (["y"], True)
    for number in range(6):
        aliases.move(admin, "x", "ba"[number % 2], "")
    assert [each[0] for each in history(aliases, admin, "x")] == [7, 6, 5, 4]
    for number in range(4):
        aliases.delete(admin, "z")
        aliases.create(admin, "z", "a", "")
        aliases.delete(admin, "y")
        aliases.create(admin, f"y{number}", "a", "")
        aliases.delete(admin, f"y{number}")
        aliases.create(admin, "y", "a", "")
    assert [aliases.is_known(project_id, f"y{number}") for number in range(4)] == [False, False, True, True]


def test_a_deleted_project_takes_its_aliases_along(
    aliases: ModelAliases, registry: ModelRegistry, database: Database, owner: KeyOwner
) -> None:
    team = Team(database, owner)
    project_id = team.project()
    loaded(registry, "a")
    there = team.caller(owner.user_id, project=project_id)
    aliases.create(there, "bot", "a", "")
    before = registry.changed_since(0)[0]
    assert aliases.projects_changed_since(before) == [project_id]
    with database.write() as session:
        session.run(project_users.delete().where(project_users.c.project_id == project_id))
        session.run(projects.delete().where(projects.c.id == project_id))
    assert aliases.projects_changed_since(0) == []
