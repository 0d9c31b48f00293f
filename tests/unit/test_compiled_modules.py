"""What the sources of the compiled modules must not contain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmariner
from llmariner.compiled import MODULES

SUSPENSIONS = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)


@pytest.mark.parametrize("name", MODULES)
def test_no_coroutine_waits_while_it_handles_an_exception(name: str) -> None:
    """A compiled coroutine leaves the exception that it handles to the tasks that run while it waits.

    Their exceptions would get it as context, and when two such coroutines overlap, the thread keeps one forever.
    """
    source = Path(llmariner.__file__).parents[1] / f"{name.replace('.', '/')}.py"
    assert list(waits(ast.parse(source.read_text()))) == []


def test_such_waits_are_found() -> None:
    assert list(waits(ast.parse("async def f():\n try:\n  pass\n except E:\n  await g()"))) == [5]
    assert list(waits(ast.parse("async def f():\n try:\n  pass\n finally:\n  if a:\n   await g()"))) == [6]
    assert list(waits(ast.parse("async def f():\n try:\n  await g()\n except E:\n  g()"))) == []


def waits(tree: ast.AST) -> Iterator[int]:
    """The lines at which a coroutine may wait in an `except` or `finally` block."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar):
            for statement in [*(each for handler in node.handlers for each in handler.body), *node.finalbody]:
                yield from (each.lineno for each in ast.walk(statement) if isinstance(each, SUSPENSIONS))
