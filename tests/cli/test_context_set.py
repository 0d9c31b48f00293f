"""`llma context set` without options: prompts on a terminal, with the choice of an organization and a project."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from cli.conftest import FakePlatform

ORGANIZATIONS = {
    "organizations": [
        {"id": "org_1", "title": "Default Organization", "is_default": True},
        {"id": "org_2", "title": "Forschung Österreich", "is_default": False},
    ]
}
PROJECTS = {"projects": [{"id": "proj_1", "title": "Alpha"}, {"id": "proj_2", "title": "Beta", "is_default": True}]}
SECONDS = 60
# What asks for a secret asks the terminal that the process has, and not its standard input.
_TAKE_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A program on its own terminal, with a user who reads before typing."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        with_terminal = [sys.executable, "-c", _TAKE_TERMINAL, *command]
        self.process = subprocess.Popen(with_terminal, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str, *, after: int = 0) -> None:
        """Until the terminal shows it. A program that ended shows nothing more."""
        end = time.monotonic() + SECONDS
        while text not in self.shown[after:]:
            assert time.monotonic() < end, self.shown
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._master, 4096).decode()
                except OSError:
                    assert text in self.shown[after:], self.shown
            elif self.process.poll() is not None:
                assert text in self.shown[after:], self.shown

    def answer(self, prompt: str, said: str) -> None:
        """Type it once the prompt is there."""
        self.read_until(prompt)
        time.sleep(0.3)  # a hidden prompt throws away what was typed before it is ready
        before = len(self.shown)
        os.write(self._master, f"{said}\n".encode())
        self.read_until("\n", after=before)

    def end(self) -> int:
        """Its exit code."""
        self.read_until("Stored in")
        return self.process.wait(SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        with contextlib.suppress(OSError):
            os.close(self._master)


Open = Callable[[], Terminal]


@pytest.fixture
def terminal(program: list[str], home: Path) -> Iterator[Open]:
    """Starts `llma context set` on a terminal, in the empty home."""
    opened: list[Terminal] = []

    def start() -> Terminal:
        environment = {**os.environ, "HOME": str(home), "TERM": "dumb"}
        opened.append(Terminal([*program, "context", "set"], environment))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def stored(home: Path) -> dict[str, str]:
    return dict(yaml.safe_load((home / ".config/llmariner/config.yaml").read_text()))


def test_an_organization_and_a_project_are_chosen_from_lists(
    terminal: Open, home: Path, platform: FakePlatform
) -> None:
    platform.respond("GET /organizations", ORGANIZATIONS)
    platform.respond("GET /organizations/org_2/projects", PROJECTS)
    screen = terminal()
    screen.answer("Endpoint", platform.url)
    screen.answer("API key", "sk-typed-0123456789")
    screen.answer("Organization (number", "3")
    screen.read_until("There is no organization '3'")
    screen.answer("Organization (number", "Forschung Österreich")
    screen.answer("Project (number", "1")
    assert screen.end() == 0
    key = {"api_key": "sk-typed-0123456789"}
    assert stored(home) == {"endpoint": platform.url, "organization": "org_2", "project": "proj_1", **key}
    assert "sk-typed" not in screen.shown
    asked = platform.requests[-1].headers
    assert (asked["authorization"], asked["openai-organization"]) == ("Bearer sk-typed-0123456789", "org_2")


def test_the_default_organization_and_project_need_no_id(terminal: Open, home: Path, platform: FakePlatform) -> None:
    platform.respond("GET /organizations", ORGANIZATIONS)
    platform.respond("GET /organizations/org_1/projects", PROJECTS)
    screen = terminal()
    screen.answer("Endpoint", platform.url)
    screen.answer("API key", "")
    screen.answer("Organization (number", "")
    screen.read_until("Beta")
    screen.answer("Project (number", "-")
    assert screen.end() == 0
    assert stored(home) == {"endpoint": platform.url}


def test_values_that_cannot_be_listed_are_typed(terminal: Open, home: Path) -> None:
    screen = terminal()
    screen.answer("Endpoint", "http://127.0.0.1:9/v1")
    screen.answer("API key", "")
    screen.read_until("organizations can't be listed")
    screen.answer("Organization (title", "Research")
    screen.answer("Project (title", "proj_9")
    assert screen.end() == 0
    assert stored(home) == {"endpoint": "http://127.0.0.1:9/v1", "organization": "Research", "project": "proj_9"}
