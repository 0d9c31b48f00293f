"""The extras that a function declares are sufficient for its image, and each is used."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from llmariner.manifests.declarations import Consumer, Workload, read_declarations

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
WORKLOADS: list[Workload] = [each for group in read_declarations(CHECKOUT) for each in group]

OWNERS = importlib.metadata.packages_distributions()
CONTEXT = CHECKOUT / "shared/llmariner/context.py"
ADAPTER = CHECKOUT / "shared/llmariner/http/entrypoint.py"
"""Its functions import what consumers need, or what functions-framework brings where that is what runs us."""

# On a cluster the token path's control plane is always another function; the choice is the context's own.
ELSEWHERE = "in_process_control_plane"


@cache
def closure(extras: tuple[str, ...]) -> frozenset[str]:
    """Top-level modules of all packages that come with these extras."""
    wanted = [*PROJECT["dependencies"], *(each for extra in extras for each in PROJECT["optional-dependencies"][extra])]
    pending, seen = [Requirement(each) for each in wanted], set[str]()
    while pending:
        requirement = pending.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or name in seen:
            continue
        seen.add(name)
        environments = [{"extra": extra} for extra in (requirement.extras or {""})]
        for each in map(Requirement, importlib.metadata.requires(name) or ()):
            if each.marker is None or any(each.marker.evaluate(environment) for environment in environments):
                pending.append(Requirement(str(each).partition(";")[0]))
    return frozenset(
        module
        for module, owners in OWNERS.items()
        if any(re.sub(r"[-_.]+", "-", owner).lower() in seen for owner in owners)
    )


def asked_beside(workload: Workload, extras: tuple[str, ...], folder: Path) -> list[str]:
    """Packages that the workload's code asks for in vain where only these extras are installed."""
    route = f"{workload.routes[0].method} {workload.routes[0].path}" if not isinstance(workload, Consumer) else ""  # type: ignore[attr-defined]
    # The first type that its Trigger lets through.
    event = re.findall(r"'type': '([^']+)'", str(workload.trigger))[0] if isinstance(workload, Consumer) else ""
    environment = {
        "PYTHONPATH": str(CHECKOUT / "shared"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LLMARINER_DATABASE_URL": f"sqlite:///{folder / 'none.db'}",
        "LLMARINER_PEPPER": "0123456789abcdef" * 4,
        "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
        "LLMARINER_SERVING": "static",
        "LLMARINER_SERVING_STATIC": "{}",
        "LLMARINER_CONTROL_URL": "http://127.0.0.1:9",
    }
    program = [
        sys.executable,
        str(Path(__file__).with_name("exercise.py")),
        str(CHECKOUT / workload.folder),
        route or event,
    ]
    absent = json.dumps(sorted(OWNERS.keys() - closure(extras) - {"llmariner"}))
    done = subprocess.run(program, input=absent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that code imports, at its top or inside a function, and those that it runs by their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"llmariner(\.\w+)+", str(node.value)):
            yield str(node.value)  # the program of a process of its own
        elif isinstance(node, ast.Constant) and re.fullmatch(r"llmariner(\.\w+)+\.", str(node.value)):
            package = str(node.value)  # the beginning of an f-string that names one of its modules
            folder = CHECKOUT / "shared" / package.replace(".", "/")
            yield from (f"{package}{file.stem}" for file in folder.glob("*.py"))


@cache
def parsed(source: Path) -> ast.Module:
    """A file without what is there for types' sake."""
    tree = ast.parse(source.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return tree


def modules(names: Iterable[str]) -> Iterator[Path]:
    """Files of the platform among imported modules."""
    for name in names:
        place = CHECKOUT / "shared" / name.replace(".", "/")
        yield from (each for each in (place.with_suffix(".py"), place / "__init__.py") if each.is_file())


def read_of(tree: ast.AST, name: str) -> set[str]:
    """Attributes that code reads of something that goes by this name, be it a variable or itself an attribute."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            getattr(node.value, "id", None) == name
            or getattr(node.value, "attr", "").lstrip("_") == name
            or getattr(getattr(node.value, "func", None), "id", None) == f"{name}_of"
        )
    }


def reached(workload: Workload) -> set[str]:
    """Top-level modules that the workload's code could ever import.

    The context imports an adapter where a property asks for it: that counts only where somebody reads the property.
    """
    pending, seen, found = [CHECKOUT / workload.folder / "main.py"], set[Path](), set[str]()
    read_properties: set[str] = set()
    parts = {node.name: node for node in ast.walk(parsed(CONTEXT)) if isinstance(node, ast.FunctionDef)}
    while pending:
        source = pending.pop()
        if source in seen or source == CONTEXT:
            continue
        seen.add(source)
        tree = parsed(source)
        if source == ADAPTER and not isinstance(workload, Consumer):
            tree = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        names = list(imports(tree))
        read_names = read_of(tree, "context") & parts.keys()
        while fresh := read_names - read_properties:
            read_properties |= fresh
            for part in fresh:
                names += imports(parts[part])
                read_names |= (read_of(parts[part], "self") - {ELSEWHERE}) & parts.keys()
        found |= {name.partition(".")[0] for name in names}
        pending += modules(names)
    return found


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each.name)
def test_declared_extras_are_sufficient(workload: Workload, tmp_path: Path) -> None:
    assert asked_beside(workload, workload.extras, tmp_path) == []


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each.name)
def test_what_may_decrypt_stored_secrets_has_the_package_for_it(workload: Workload) -> None:
    # Only a notebook that starts, or a private repository, brings the code there: no event of the test above does.
    assert {"cryptography"} & reached(workload) <= closure(workload.extras), f"{workload.source}: add identity"


@pytest.mark.parametrize(
    ("workload", "extra"),
    [(each, extra) for each in WORKLOADS for extra in each.extras],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_every_extra_is_used(workload: Workload, extra: str) -> None:
    others = tuple(each for each in workload.extras if each != extra)
    brought = closure(workload.extras) - closure(others)
    # Workloads share an image, to keep images few: one of them must use it.
    sharing = (each for each in WORKLOADS if each.extras == workload.extras)
    assert any(brought & reached(each) for each in sharing), f"{workload.source}: take {extra} out of its extras"


def test_every_extra_a_workload_names_exists() -> None:
    named = {extra for each in WORKLOADS for extra in each.extras}
    assert named <= PROJECT["optional-dependencies"].keys()


def test_excluded_packages_are_never_imported() -> None:
    sources = [path for folder in ("shared", "functions", "eventing") for path in (CHECKOUT / folder).rglob("*.py")]
    asked = {name for source in sources for name in imports(parsed(source))}
    assert "kubernetes.client" in asked
    assert not any(name.startswith("kubernetes.aio") for name in asked)
