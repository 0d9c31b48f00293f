"""Names of `llma storage` in the shell: short names of groups, and completion of ids and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .storage_cases import FILE, STORES

if TYPE_CHECKING:
    from cli.conftest import Complete, FakePlatform, Llma

FILES = {"object": "list", "data": [FILE], "has_more": False}


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("storage vs list", "storage vector-stores list"),
        ("st vector-stores list", "storage vector-stores list"),
        ("st files list", "storage files list"),
        ("storage vs list-files handbook", "storage vector-stores files handbook"),
    ],
)
def test_groups_have_upstreams_short_names(alias: str, name: str, llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /files", FILES)
    platform.respond("GET /vector_stores", STORES)
    platform.respond("GET /vector_stores/vs_1/files", FILES)
    assert llma(*alias.split()).out == llma(*name.split()).out != ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [("llma storage files get ", ["file-1"]), ("llma storage vector-stores search h", ["handbook"])],
)
def test_the_shell_completes_ids_and_names(
    words: str, offered: list[str], platform: FakePlatform, complete: Complete
) -> None:
    platform.respond("GET /files", FILES)
    platform.respond("GET /vector_stores", STORES)
    assert complete(words) == offered
