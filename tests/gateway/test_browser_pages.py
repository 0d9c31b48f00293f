"""A page in a real browser that calls a platform of another origin, with OpenAI's SDK."""

from __future__ import annotations

import http.server
import importlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from .running_platform import Platform, eventually, running

pytestmark = pytest.mark.timeout(180)
PAGE = b'<!doctype html><meta charset="utf-8"><title>working</title><script type="module" src="/pages.mjs"></script>'


class Site(http.server.SimpleHTTPRequestHandler):
    """The page, its script and the SDK's own modules, as an application's web server has them."""

    def do_GET(self) -> None:
        if self.path.startswith("/page?"):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    """The port of a site with the page."""
    modules = importlib.import_module("..e2e.clients.environments", __package__).node_modules()
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "openai").symlink_to(modules / "openai")
    (folder / "pages.mjs").symlink_to(Path(__file__).with_name("pages.mjs"))
    handler = partial(Site, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with importlib.import_module("..identity.chromium", __package__).Chromium(tmp_path) as found:
        yield found


def seen(browser: Any, site: int, platform: Platform) -> dict[str, Any]:
    """The results of the page."""
    asked = {"platform": f"http://127.0.0.1:{platform.port}", "key": platform.caller.secret, "model": "small"}
    browser.open(f"http://127.0.0.1:{site}/page?{urlencode(asked)}")
    eventually(lambda: browser.title == "done", seconds=60, what="the page's work")
    found: dict[str, Any] = json.loads(browser.text)
    return found


def test_a_page_of_an_allowed_origin_uses_the_sdk(browser: Any, site: int, tmp_path: Path, database: Path) -> None:
    with running(tmp_path, database, CORS_ORIGINS=f"http://127.0.0.1:{site}") as platform:
        platform.model("small")
        found = seen(browser, site, platform)
    assert found["list"] == ["small"]
    assert found["chat"]["text"]
    assert found["chat"]["request"].startswith("req_")
    assert found["stream"] > 1
    refusals = {
        "wrong key": (401, "invalid_api_key"),
        "unknown model": (404, "model_not_found"),
        "unknown path": (404, "unknown_url"),
        "delete": (404, "model_not_found"),
    }
    assert {name: (found[name]["status"], found[name]["code"]) for name in refusals} == refusals
    assert all(found[name]["request"].startswith("req_") for name in refusals)


def test_a_page_of_another_origin_gets_no_response(browser: Any, site: int, tmp_path: Path, database: Path) -> None:
    with running(tmp_path, database, CORS_ORIGINS="https://app.example.org") as platform:
        platform.model("small")
        found = seen(browser, site, platform)
    assert all(each["unheard"] and each["status"] is None for each in found.values())
