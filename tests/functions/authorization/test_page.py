"""docs/security/authorization.md matches the code, and routes without a declared scope are reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmariner.authorization.__main__ import main
from llmariner.authorization.markdown import PAGE
from llmariner.authorization.matrix import (
    ObjectScope,
    Outcome,
    Ownership,
    RouteAccess,
    Subject,
    UndeclaredRouteError,
    decide,
    declared_routes,
)

from ..processes import CHECKOUT


def test_the_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of two functions, its page written."""
    for name in ("health", "api_usages"):
        shutil.copytree(CHECKOUT / "functions" / name, tmp_path / "functions" / name)
    assert main(["--checkout", str(tmp_path)]) == 0
    return tmp_path


def test_a_changed_or_missing_page_is_stale(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--checkout", str(checkout)]) == 0
    page = checkout / PAGE
    page.write_text(page.read_text().replace("own", "all", 1))
    assert main(["--check", "--checkout", str(checkout)]) == 1
    page.unlink()
    assert main(["--check", "--checkout", str(checkout)]) == 1
    assert "python -m llmariner.authorization" in capsys.readouterr().err


def test_a_changed_scope_makes_the_page_stale(checkout: Path) -> None:
    source = checkout / "functions/api_usages/main.py"
    source.write_text(source.read_text().replace("api.api_usages.read", "api.model.read"))
    assert main(["--check", "--checkout", str(checkout)]) == 1


def test_a_route_without_a_caller_is_undeclared(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkout / "functions/api_usages/main.py"
    source.write_text(source.read_text().replace("caller: Reader", "caller: Any = None"))
    with pytest.raises(UndeclaredRouteError, match=r"functions/api_usages: /v1/api_usages says no scope"):
        declared_routes(checkout)
    assert main(["--check", "--checkout", str(checkout)]) == 1
    assert "says no scope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objects", "caller", "whose", "expected"),
    [
        (ObjectScope.PUBLIC, None, Ownership.OWN, Outcome.ALLOWED),
        (ObjectScope.FUNCTIONS, Subject("owner"), Ownership.OWN, Outcome.UNKNOWN),
        (ObjectScope.PROJECT, None, Ownership.OWN, Outcome.UNKNOWN),
        (ObjectScope.PROJECT, Subject("owner"), Ownership.OWN, Outcome.ALLOWED),
        (ObjectScope.PROJECT, Subject("owner"), Ownership.SIBLING_PROJECT, Outcome.HIDDEN),
        (ObjectScope.PROJECT, Subject("owner", in_project=False), Ownership.OWN, Outcome.NO_PROJECT),
        (
            ObjectScope.PROJECT,
            Subject("owner", key_scopes=frozenset({"api.files.read"})),
            Ownership.OWN,
            Outcome.FORBIDDEN,
        ),
        (ObjectScope.PROJECT, Subject("reader"), Ownership.OWN, Outcome.FORBIDDEN),
        (ObjectScope.PROJECT, Subject("reader", "viewer"), Ownership.OWN, Outcome.ALLOWED),
        (ObjectScope.PROJECT, Subject(None, "owner"), Ownership.OWN, Outcome.UNKNOWN),
        (ObjectScope.MEMBER, Subject("reader", "viewer"), Ownership.SIBLING_PROJECT, Outcome.HIDDEN),
        (ObjectScope.MEMBER, Subject("owner"), Ownership.SIBLING_PROJECT, Outcome.ALLOWED),
        (ObjectScope.MEMBER, Subject("owner"), Ownership.OTHER_ORGANIZATION, Outcome.HIDDEN),
        (ObjectScope.ORGANIZATION, Subject("reader", "owner"), Ownership.OWN, Outcome.FORBIDDEN),
        (ObjectScope.ORGANIZATION, Subject("owner"), Ownership.SIBLING_PROJECT, Outcome.ALLOWED),
        (ObjectScope.ORGANIZATION, Subject("owner"), Ownership.OTHER_ORGANIZATION, Outcome.HIDDEN),
        (ObjectScope.SELF, Subject("owner"), Ownership.SIBLING_PROJECT, Outcome.HIDDEN),
    ],
)
def test_the_matrix_has_the_expected_values(
    objects: ObjectScope, caller: Subject | None, whose: Ownership, expected: Outcome
) -> None:
    access = RouteAccess("things", "GET", "/v1/things/{id}", "api.model.read", objects)
    assert decide(access, caller, whose) is expected
