"""`llma auth login` as people meet it: the installed program, a real browser, the issuer's own pages."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.settings import environment
from llmariner.tenancy.groups.group_roles import GroupRoles

from .chromium import Chromium
from .issuer import RunningIssuer
from .served_platform import ServedPlatform
from .terminal import Terminal
from .test_dex import serving

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path) as running:
        yield running


@pytest.fixture
def company(tmp_path: Path) -> Iterator[RunningIssuer]:
    """An issuer with alice, of the group `staff`."""
    made = RunningIssuer(tmp_path)
    made.accounts = {"alice": {"groups": ["staff"], "name": "Alice"}}
    with made:
        yield made


@contextlib.contextmanager
def signing_in(folder: Path, browser: Chromium, issuer: str) -> Iterator[tuple[Terminal, subprocess.Popen[str]]]:
    """A platform with that issuer, whose group `staff` is in its project, and `llma auth login` under way."""
    with ServedPlatform(folder, issuer) as served:
        owner = served.context.authenticator.caller_for_user(served.owner.user_id)
        place = {"role": "member", "project_id": served.owner.project_id}
        GroupRoles(served.context.database).create(owner, issuer=issuer, group="staff", **place)
        terminal = Terminal(folder / "home", served.url, browser.command)
        with terminal.starts("auth", "login") as login:
            try:
                yield terminal, login
            finally:
                login.kill()


def logs_in(browser: Chromium) -> None:
    """Alice, on the issuer's pages."""
    browser.fill("input[name=login]", "alice")
    browser.fill("input[name=password]", "any")
    browser.press("button[type=submit]")
    browser.press("input[value=consent] ~ button[type=submit]")


def check_signed_in(browser: Chromium, terminal: Terminal, login: subprocess.Popen[str]) -> None:
    out, err = login.communicate(timeout=60)
    assert login.returncode == 0, err
    assert "as alice@example.org" in out
    assert "Your browser was opened" in err
    assert browser.title == "You are signed in"
    assert "alice@example.org" in browser.text
    assert "code=" not in browser.address
    assert "member of Default Project" in terminal.says("auth", "status")


def test_a_browser_sign_in_succeeds(browser: Chromium, company: RunningIssuer, tmp_path: Path) -> None:
    with signing_in(tmp_path, browser, company.url) as (terminal, login):
        logs_in(browser)
        check_signed_in(browser, terminal, login)
        browser.screenshot(tmp_path / "signed-in.png")
        assert "Signed out" in terminal.says("auth", "logout")


def test_a_cancelled_sign_in_is_reported_on_the_page_and_in_the_terminal(
    browser: Chromium, company: RunningIssuer, tmp_path: Path
) -> None:
    with signing_in(tmp_path, browser, company.url) as (_, login):
        browser.press("a[href$='/abort']")
        _, err = login.communicate(timeout=60)
        assert (login.returncode, "access_denied" in err) == (3, True)
        assert browser.title == "You are not signed in"
        assert "llma auth login" in browser.text
        browser.screenshot(tmp_path / "refused.png")


def test_dex_redirects_to_the_upstream_issuer_and_back(browser: Chromium, tmp_path: Path) -> None:
    program = environment().get("LLMARINER_TEST_DEX", "")
    if not program:
        pytest.skip("LLMARINER_TEST_DEX names no program")
    with serving(program, tmp_path, {"type": "memory"}) as (dex, _), signing_in(tmp_path, browser, dex.url) as started:
        logs_in(browser)
        check_signed_in(browser, *started)
