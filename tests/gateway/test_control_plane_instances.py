"""Several copies of the control function: a cursor of one is no cursor of another, and nothing is missed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmariner.context import Context
from llmariner.control_plane import InProcessControlPlane
from llmariner.platform.serving import Phase, Status
from llmariner.platform.serving.static import StaticServing

from .running_platform import Platform


class Instance:
    """One instance on the shared database; the test sets the engines' states that it observes."""

    def __init__(self, context: Context) -> None:
        serving = _Watched()
        context.serving = serving
        self.control: InProcessControlPlane = context.in_process_control_plane
        self._serving = serving

    def sees(self, model: str, phase: Phase) -> None:
        for observer in self._serving.observers:
            observer(model, Status(phase))

    def changes(self, cursor: str) -> tuple[str, set[str], bool]:
        found = asyncio.run(self.control.changes_since(cursor, 0))
        return found.cursor, set(found.models), found.all_models


class _Watched(StaticServing):
    def __init__(self) -> None:
        super().__init__("{}")
        self.observers: list[Callable[[str, Status], None]] = []

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        self.observers.append(observer)


@pytest.fixture
def instances(tmp_path: Path, database: Path) -> Iterator[tuple[Instance, Instance]]:
    home = Platform(tmp_path, {}, database)
    contexts = [Context(home.environment) for _ in range(2)]
    yield Instance(contexts[0]), Instance(contexts[1])
    for context in (*contexts, home.context):
        context.database.close()


def test_alternating_between_instances_misses_no_change(instances: tuple[Instance, Instance]) -> None:
    one, two = instances
    for number in range(5):
        one.sees(f"before-{number}", Phase.READY)
    cursor, moved, all_models = one.changes("")
    assert (moved, all_models) == (set(), False)
    # The other copy has counted less, and can't say what happened before it was asked.
    cursor, moved, all_models = two.changes(cursor)
    assert all_models
    cursor, moved, all_models = two.changes(cursor)
    assert (moved, all_models) == (set(), False)
    one.sees("slept", Phase.ASLEEP)
    two.sees("ready", Phase.READY)
    cursor, moved, all_models = two.changes(cursor)
    assert (moved, all_models) == ({"ready"}, False)
    cursor, moved, all_models = one.changes(cursor)
    assert (moved, all_models) == ({"slept"}, False)
    assert one.changes(cursor)[1:] == (set(), False)


def test_changes_older_than_an_instances_history_invalidate_everything(instances: tuple[Instance, Instance]) -> None:
    one, _ = instances
    cursor, _, _ = one.changes("")
    for number in range(1500):
        one.sees(f"model-{number}", Phase.READY)
    assert one.changes(cursor)[2]


@pytest.mark.parametrize("cursor", ["5.6.7", "x", "1.2", "..", "1.2.a:b", "1.2." + "c:1," * 1000, "1.2.a:1:1"])
def test_an_invalid_cursor_is_a_first_request(instances: tuple[Instance, Instance], cursor: str) -> None:
    one, _ = instances
    following, _, all_models = one.changes(cursor)
    assert all_models
    assert one.changes(following)[2] is False
    assert len(following) < 1000
