"""docs/configuration.md names every variable that the code reads, with the code's own defaults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmariner.cli.support.configuration import resolve_target
from llmariner.file_settings import FileSettings
from llmariner.server import ServerLimits
from llmariner.settings import (
    DatabaseSettings,
    GatewaySettings,
    IdentitySettings,
    ModelSettings,
    ObjectSettings,
    ServingSettings,
    StandaloneSettings,
    UsageSettings,
    VectorSettings,
)
from llmariner.vector_store_settings import VectorStoreSettings

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/configuration.md").read_text()
NAME = re.compile(r"\bLLMARINER_[A-Z_]*[A-Z]\b")
# Marks the engines of one launcher in their environment; it is not a setting.
INTERNAL = {"LLMARINER_ENGINES_OF"}
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if "LLMARINER_" in line]
DEFAULTS = [(cells[0].strip("`"), cells[1].strip("`")) for cells in ROWS if len(cells) == 3 and cells[1]]
BARE = {"LLMARINER_DATABASE_URL": "sqlite:///x.db", "LLMARINER_MILVUS_URI": "http://milvus:19530"}


def read_by_the_code() -> set[str]:
    sources = [CHECKOUT / folder for folder in ("shared/llmariner", "functions", "eventing")]
    text = "\n".join(file.read_text() for folder in sources for file in folder.rglob("*.py"))
    return set(NAME.findall(text)) - INTERNAL


def test_every_variable_of_the_code_is_on_the_page() -> None:
    assert read_by_the_code() - set(NAME.findall(PAGE)) == set()


def test_every_variable_on_the_page_is_in_the_code() -> None:
    modules = (CHECKOUT / "shared/llmariner").glob("*settings.py")
    settings = "\n".join(module.read_text() for module in modules)
    files = {f"{name}_FILE" for name in re.findall(r'_secret\(env, "(\w+)"\)', settings)}
    assert set(NAME.findall(PAGE)) - read_by_the_code() - files == set()


def test_every_variable_has_a_row_of_its_own() -> None:
    named = [name for cells in ROWS if len(cells) == 3 for name in NAME.findall(cells[0])]
    assert sorted(named) == sorted(set(NAME.findall(PAGE)))


@pytest.mark.parametrize(("name", "default"), [row for row in DEFAULTS if row[0] != "LLMARINER_BASE_URL"])
def test_setting_a_variable_to_its_documented_default_changes_nothing(name: str, default: str) -> None:
    own = (ServerLimits, StandaloneSettings, DatabaseSettings, GatewaySettings, IdentitySettings, VectorStoreSettings)
    for settings in (*own, FileSettings, ModelSettings, ObjectSettings, ServingSettings, UsageSettings, VectorSettings):
        assert settings.load({**BARE, name: default}) == settings.load(BARE)


def test_llma_uses_the_documented_server_by_default(tmp_path: Path) -> None:
    assert resolve_target({"XDG_CONFIG_HOME": str(tmp_path)}).endpoint == dict(DEFAULTS)["LLMARINER_BASE_URL"]


def test_a_wrong_default_is_detected() -> None:
    assert GatewaySettings.load({"LLMARINER_WAIT_SECONDS": "61"}) != GatewaySettings.load({})
