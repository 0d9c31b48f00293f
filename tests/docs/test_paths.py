"""The pages for people who change the code name files and make targets that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
ARCHITECTURE = (CHECKOUT / "docs/architecture.md").read_text()
# Its modules are named relative to the package `gateway`.
TOKEN_PATH = re.findall(r"^\| step \| module \|\n.*?^A gateway instance", ARCHITECTURE, re.M | re.S)[0]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")
SPAN = re.compile(r"`([^`\n]+)`")
FOLDERS = "docs|eventing|functions|images|kserve|locks|manifests|shared|tests"
PATH = re.compile(rf"(?:{FOLDERS})/[\w./-]*")
TARGET = re.compile(r"\bmake ([a-z][a-z0-9-]*)")


def paths(page: str) -> list[str]:
    """The paths from the root of the checkout that a page has in code spans."""
    return [span for span in SPAN.findall((CHECKOUT / page).read_text()) if PATH.fullmatch(span)]


def modules(text: str) -> list[str]:
    """The modules and packages in code spans that are named relative to `shared/llmariner`."""
    packages = {path.name for path in (CHECKOUT / "shared/llmariner").iterdir()}
    return [span for span in SPAN.findall(text) if span.endswith((".py", "/")) and span.split("/")[0] in packages]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    assert [path for path in paths(page) if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (CHECKOUT / "Makefile").read_text(), re.M))
    code = [
        *SPAN.findall((CHECKOUT / page).read_text()),
        *re.findall(r"^    (make .*)$", (CHECKOUT / page).read_text(), re.M),
    ]
    assert {target for text in code for target in TARGET.findall(text)} - targets == set()


def test_every_module_exists() -> None:
    found = modules(ARCHITECTURE.replace(TOKEN_PATH, ""))
    assert len(found) > 20
    assert [module for module in found if not (CHECKOUT / "shared/llmariner" / module).exists()] == []


def test_every_module_of_the_token_path_exists() -> None:
    found = re.findall(r"`([\w/]+\.py)`", TOKEN_PATH)
    assert len(found) > 6
    assert [module for module in found if not (CHECKOUT / "shared/llmariner/gateway" / module).exists()] == []


def test_the_control_plane_has_the_documented_methods() -> None:
    port = (CHECKOUT / "shared/llmariner/gateway/control_plane/port.py").read_text().partition("class ControlPlane")[2]
    declared = re.findall(r"async def (\w+)\(", port)
    assert re.findall(r"^\| `(\w+)\(", ARCHITECTURE, re.M) == declared
