"""The commands of docs/team.md run in order on a platform and print the documented output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from .running_platform import Platform, running

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/team.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
MODEL = "smollm2-135m-instruct"
# What differs from run to run, and how wide a column is for it.
DIFFERS = (
    (re.compile(r"\b(org|proj|user|key|role|invite|limit|budget|audit_log)_[0-9a-z]{22}\b"), r"\1_…"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"), "…"),
    (re.compile(r" {2,}"), "  "),
    (re.compile(r" +$", re.M), ""),
)


def steps() -> list[tuple[str, str]]:
    """Each block of commands with its output; nothing if the page shows none."""
    blocks = [*FENCE.findall(PAGE), ("", "")]
    return [
        (code, output if following == "text" else "")
        for (language, code), (following, output) in pairwise(blocks)
        if language == "sh"
    ]


def same(text: str) -> str:
    for pattern, shown in DIFFERS:
        text = pattern.sub(shown, text)
    return text.strip()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    """A platform of one machine with a scripted engine under the packaged model's name."""
    with running(tmp_path_factory.mktemp("team"), database) as made:
        made.model(MODEL)
        yield made


def test_the_page_sets_up_a_team(platform: Platform, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LLMARINER_", "XDG_"))},
        "PATH": path,
        "HOME": str(tmp_path),
        "LLMARINER_HOME": str(tmp_path / ".llmariner"),
        "LLMARINER_BASE_URL": f"http://127.0.0.1:{platform.port}/v1",
        "LLMARINER_API_KEY": platform.caller.secret,
    }
    assert len(steps()) >= 8
    for commands, printed in steps():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, commands + done.stdout + done.stderr
        assert same(done.stdout) == same(printed), commands
    assert len((tmp_path / "answer.txt").read_text()) > 1


def test_every_code_block_is_a_command_or_its_output() -> None:
    assert {language for language, _ in FENCE.findall(PAGE)} == {"sh", "text"}
