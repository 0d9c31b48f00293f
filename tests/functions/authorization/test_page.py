"""docs/security/authorization.md is what the code says, and a route that says nothing of itself is found out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmariner.authorization.__main__ import main
from llmariner.authorization.markdown import PAGE
from llmariner.authorization.matrix import Access, Objects, Standing, Undeclared, Verdict, Whose, declared, verdict

from ..children import CHECKOUT


def test_the_page_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of two functions, its page written."""
    for name in ("health", "api_usages"):
        shutil.copytree(CHECKOUT / "functions" / name, tmp_path / "functions" / name)
    assert main(["--checkout", str(tmp_path)]) == 0
    return tmp_path


def test_a_page_that_was_changed_or_lost_is_stale(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--checkout", str(checkout)]) == 0
    page = checkout / PAGE
    page.write_text(page.read_text().replace("own", "all", 1))
    assert main(["--check", "--checkout", str(checkout)]) == 1
    page.unlink()
    assert main(["--check", "--checkout", str(checkout)]) == 1
    assert "python -m llmariner.authorization" in capsys.readouterr().err


def test_another_scope_makes_the_page_stale(checkout: Path) -> None:
    source = checkout / "functions/api_usages/main.py"
    source.write_text(source.read_text().replace("api.api_usages.read", "api.model.read"))
    assert main(["--check", "--checkout", str(checkout)]) == 1


def test_a_route_without_a_caller_is_undeclared(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkout / "functions/api_usages/main.py"
    source.write_text(source.read_text().replace("caller: Reader", "caller: Any = None"))
    with pytest.raises(Undeclared, match=r"functions/api_usages: /v1/api_usages says no scope"):
        declared(checkout)
    assert main(["--check", "--checkout", str(checkout)]) == 1
    assert "says no scope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objects", "caller", "whose", "expected"),
    [
        (Objects.EVERYBODYS, None, Whose.OWN, Verdict.ALLOWED),
        (Objects.FUNCTIONS, Standing("owner"), Whose.OWN, Verdict.UNKNOWN),
        (Objects.PROJECT, None, Whose.OWN, Verdict.UNKNOWN),
        (Objects.PROJECT, Standing("owner"), Whose.OWN, Verdict.ALLOWED),
        (Objects.PROJECT, Standing("owner"), Whose.SIBLING, Verdict.HIDDEN),
        (Objects.PROJECT, Standing("owner", in_project=False), Whose.OWN, Verdict.NO_PROJECT),
        (Objects.PROJECT, Standing("owner", cut=frozenset({"api.files.read"})), Whose.OWN, Verdict.FORBIDDEN),
        (Objects.PROJECT, Standing("reader"), Whose.OWN, Verdict.FORBIDDEN),
        (Objects.PROJECT, Standing("reader", "viewer"), Whose.OWN, Verdict.ALLOWED),
        (Objects.PROJECT, Standing(None, "owner"), Whose.OWN, Verdict.UNKNOWN),
        (Objects.MEMBER, Standing("reader", "viewer"), Whose.SIBLING, Verdict.HIDDEN),
        (Objects.MEMBER, Standing("owner"), Whose.SIBLING, Verdict.ALLOWED),
        (Objects.MEMBER, Standing("owner"), Whose.OTHER, Verdict.HIDDEN),
        (Objects.ORGANIZATION, Standing("reader", "owner"), Whose.OWN, Verdict.FORBIDDEN),
        (Objects.ORGANIZATION, Standing("owner"), Whose.SIBLING, Verdict.ALLOWED),
        (Objects.ORGANIZATION, Standing("owner"), Whose.OTHER, Verdict.HIDDEN),
        (Objects.SELF, Standing("owner"), Whose.SIBLING, Verdict.HIDDEN),
    ],
)
def test_the_matrix_says(objects: Objects, caller: Standing | None, whose: Whose, expected: Verdict) -> None:
    access = Access("things", "GET", "/v1/things/{id}", "api.model.read", objects)
    assert verdict(access, caller, whose) is expected
