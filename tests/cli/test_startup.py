"""Commands without a platform: help, completion and version, and their limited imports."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import click
import pytest

import llmariner
from llmariner.cli.main import llma as root
from llmariner.cli.support.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import Llma


def paths(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group, the root included."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += paths(child, (*path, name))
    return found


@pytest.mark.parametrize("path", paths(root), ids=lambda path: " ".join(path) or "llma")
def test_help_renders_with_the_global_options(path: tuple[str, ...], bare_llma: Llma) -> None:
    result = bare_llma(*path, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: {' '.join(('llma', *path))} ")
    for option in ("--output", "--color", "--endpoint"):
        assert result.out.count(f"{option} ") >= 1
    assert bare_llma(*path, "-h").out == result.out


def test_help_lists_every_exit_code(bare_llma: Llma) -> None:
    lines = bare_llma("--help").out.split("Exit codes:\n")[1].splitlines()
    assert [int(line.split()[0]) for line in lines if line] == [code.value for code in ExitCode]


def test_no_short_help_is_truncated(bare_llma: Llma) -> None:
    groups = [path for path in paths(root) if "Commands:" in bare_llma(*path, "--help").out]
    assert [
        path for path in groups if "..." in bare_llma(*path, "--help").out.split("Commands:")[1].split("\n\n")[0]
    ] == []


def test_global_options_work_before_and_after_the_command(bare_llma: Llma) -> None:
    before, after = bare_llma("-o", "json", "version"), bare_llma("version", "--output", "json")
    assert before.json == after.json == {"version": llmariner.__version__}
    assert bare_llma("-o", "yaml", "version", "-o", "json").json == after.json


HEAVY = "rich httpx2 yaml asyncio fastapi sqlalchemy"


@pytest.mark.parametrize("line", [("--help",), ("models", "--help"), ("version",), ("completion", "zsh")], ids=" ".join)
def test_commands_without_a_platform_do_not_import_a_client(
    line: tuple[str, ...], home: Path, program: list[str]
) -> None:
    code = f"""
import sys
from llmariner.cli.main import main
main({list(line)!r})
sys.exit(' '.join(set({HEAVY.split()!r}) & set(sys.modules)))
"""
    result = subprocess.run([*program[:2], code], capture_output=True, text=True, check=False)
    assert result.stderr.split() == [], "imported"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_llma(shell: str, bare_llma: Llma) -> None:
    result = bare_llma("completion", shell)
    assert result.code == 0
    assert f"_LLMA_COMPLETE={shell}_complete" in result.out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("llma mod", ["models"]),
        ("llma models de", ["deactivate", "delete"]),
        ("llma auth api-keys ro", ["rotate"]),
        ("llma models list --out", ["--output"]),
        ("llma models list --output j", ["json"]),
    ],
)
def test_completion_offers_matching_commands(words: str, offered: list[str], home: Path, program: list[str]) -> None:
    environment = {
        **os.environ,
        "_LLMA_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert sorted(line.partition(",")[2] for line in result.stdout.split()) == offered


def test_a_standalone_command_without_the_platform_names_the_missing_package(home: Path, program: list[str]) -> None:
    """A client's installation has no `llmariner.standalone`; an import hook stands for it in a process of its own."""
    code = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("llmariner.standalone"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from llmariner.cli.main import main
sys.exit(main(["up"]))
"""
    result = subprocess.run([*program[:2], code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'llmariner-knative[local]'" in result.stderr
