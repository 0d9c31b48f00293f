"""Notebooks of the platform on one machine: the real JupyterLab, through the platform's proxy."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from websockets.sync.client import connect

from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.notebooks import NotebookEnvironment, notebook_lock

from .test_daemon import Env, environment_of, llma

pytestmark = pytest.mark.engine
NOTEBOOKS = "/v1/workspaces/notebooks"
CELL = """
import os, openai
with open("made.txt", "w") as file:
    file.write("made")
try:
    os.listdir({home!r})
except OSError as error:
    print(type(error).__name__)
print(sorted(each.id for each in openai.OpenAI().models.list())[0])
!echo terminal
import zipfile
for version in ("1.0", "2.0"):
    described = f"sample_pack-{{version}}.dist-info"
    with zipfile.ZipFile(f"sample_pack-{{version}}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sample_pack.py", f"VERSION = {{version!r}}")
        wheel.writestr(f"{{described}}/METADATA", f"Metadata-Version: 2.1\\nName: sample-pack\\nVersion: {{version}}\\n")
        wheel.writestr(f"{{described}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{described}}/RECORD", "")
%pip install --quiet --quiet --no-index sample_pack-1.0-py3-none-any.whl
import sample_pack
print(sample_pack.VERSION)
!pip install --quiet --no-index sample_pack-2.0-py3-none-any.whl
!python -c "import sample_pack; print(sample_pack.VERSION)"
"""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_args: Any) -> None:
        return None


class Caller:
    """Calls the platform with the administrator's key, or with other headers."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.base = f"http://127.0.0.1:{env['LLMARINER_PORT']}"
        key = (Path(env["LLMARINER_HOME"]) / "admin.key").read_text()
        self.headers = {"authorization": f"Bearer {key}"}

    def raw(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """Status, headers and body."""
        sent = {**(self.headers if headers is None else headers), "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, sent, method=method)
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as response:
                return response.status, response.headers, response.read()
        except HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, _, found = self.raw(method, path, body)
        assert status in (200, 201), (status, found)
        return json.loads(found)

    def wait(self, notebook_id: str, status: str) -> Any:
        deadline = time.monotonic() + 240
        while (found := self.json("GET", f"{NOTEBOOKS}/{notebook_id}"))["status"] != status:
            assert time.monotonic() < deadline, found
            assert found["status"] != "failed", found
            time.sleep(0.2)
        return found

    def run_cell(self, base: str, code: str) -> str:
        """What a cell prints."""
        kernel = self.json("POST", f"{base}api/kernels", {"name": "python3"})["id"]
        url = f"ws{self.base.removeprefix('http')}{base}api/kernels/{kernel}/channels"
        header = {"msg_id": uuid.uuid4().hex, "username": "", "session": "s", "msg_type": "execute_request"}
        message: dict[str, Any] = {
            "header": {**header, "version": "5.3", "date": ""},
            "parent_header": {},
            "metadata": {},
        }
        message |= {"channel": "shell", "content": {"code": code, "silent": False}, "buffers": []}
        printed = ""
        with connect(url, additional_headers=self.headers, max_size=2**24, open_timeout=60) as socket:
            socket.send(json.dumps(message))
            while True:
                found = json.loads(socket.recv(timeout=120))
                if found["msg_type"] == "stream":
                    printed += found["content"]["text"]
                if found["msg_type"] == "execute_reply":
                    assert found["content"]["status"] == "ok", found
                    return printed


NOTEBOOK: dict[str, Any] = {
    "cells": [{"cell_type": "code", "source": "print(6 * 7)", "metadata": {}, "outputs": [], "execution_count": None}],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
SHIFT_ENTER = "\ue008\ue007"


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    made = environment_of(tmp_path / "home", tmp_path / "cache")
    real = NotebookEnvironment(StandaloneSettings.load(environment()).cache, notebook_lock())
    real.install()
    NotebookEnvironment(tmp_path / "cache", notebook_lock()).folder.symlink_to(real.folder)
    yield made
    llma(made, "down")


def file_of(caller: Caller, base: str) -> str:
    return str(caller.json("GET", f"{base}api/contents/made.txt")["content"])


def test_a_notebook_runs_cells_and_keeps_its_files(env: Env, tmp_path: Path) -> None:
    assert llma(env, "up").returncode == 0
    caller = Caller(env)
    status, _, answer = caller.raw("POST", NOTEBOOKS, {"name": "first"})
    if status == 503:
        pytest.skip(answer.decode())
    made = json.loads(answer)
    base, one = made["path"], f"{NOTEBOOKS}/{made['id']}"
    caller.wait(made["id"], "running")
    printed = caller.run_cell(base, CELL.format(home=env["LLMARINER_HOME"]))
    words = [each for each in printed.splitlines() if each and not each.startswith("Note:")]
    assert words == ["FileNotFoundError", "all-minilm-l6-v2", "terminal", "1.0", "2.0"]
    check_browser(caller, base, one)
    use_lab(caller, base, one, tmp_path)
    # A file with the name of a module of Python does not keep JupyterLab from starting again.
    caller.json(
        "PUT", f"{base}api/contents/random.py", {"type": "file", "format": "text", "content": "raise SystemExit"}
    )
    caller.json("POST", f"{one}/actions:stop")
    caller.wait(made["id"], "stopped")
    status, _, answer = caller.raw("GET", f"{base}lab")
    assert (status, json.loads(answer)["error"]["code"]) == (409, "notebook_not_running")
    assert not [key for key in keys_of(caller) if key["name"].startswith("notebook ")]
    caller.json("POST", f"{one}/actions:start")
    caller.wait(made["id"], "running")
    assert file_of(caller, base) == "made"
    os.kill(json.loads((Path(env["LLMARINER_HOME"]) / "platform.json").read_text())["pid"], signal.SIGKILL)
    assert llma(env, "up").returncode == 0
    deadline = time.monotonic() + 60
    while (found := caller.json("GET", one))["status"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert (found["status"], found["error"]["code"]) == ("failed", "interrupted")
    caller.json("POST", f"{one}/actions:start")
    caller.wait(made["id"], "running")
    assert file_of(caller, base) == "made"
    assert caller.json("DELETE", one) == {}
    folder = Path(env["LLMARINER_HOME"]) / "notebooks" / made["id"]
    while folder.exists():
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)


def keys_of(caller: Caller) -> list[dict[str, Any]]:
    return list(caller.json("GET", "/v1/api_keys")["data"])


def check_browser(caller: Caller, base: str, one: str) -> None:
    """A browser, which has no key, opens the notebook once with a link, and nobody opens it without."""
    host = {"host": f"{base.split('/')[-2]}.localhost:{caller.env['LLMARINER_PORT']}"}
    assert caller.raw("GET", f"{base}lab", headers=host)[0] == 401
    link = caller.json("POST", f"{one}/actions:open")["path"]
    status, headers, _ = caller.raw("GET", link, headers=host)
    assert (status, headers["location"]) == (303, f"{base}lab")
    field = headers["set-cookie"]
    assert "HttpOnly" in field
    assert f"Path={base.rstrip('/')};" in field
    cookie = {**host, "cookie": field.partition(";")[0]}
    status, headers, page = caller.raw("GET", f"{base}lab", headers=cookie)
    assert status == 200
    assert b"jupyter-config-data" in page
    assert all(each.startswith("_xsrf=") for each in headers.get_all("set-cookie") or ())
    assert caller.raw("GET", link, headers=host)[0] == 401  # it was used
    # As JupyterLab's pages ask, which know the token of their server.
    asked = {**cookie, "authorization": "token x", "origin": f"http://{host['host']}"}
    assert caller.raw("GET", f"{base}api/kernelspecs", headers=asked)[0] == 200
    wrong = {**cookie, "origin": "https://attacker.example"}
    assert caller.raw("POST", f"{base}api/kernels", {}, wrong)[0] == 403
    assert caller.raw("GET", f"{base}lab", headers={"cookie": cookie["cookie"]})[0] == 403
    assert caller.raw("GET", f"{base.replace('nb-', 'nb-x')}lab", headers=cookie)[0] == 403


def use_lab(caller: Caller, base: str, one: str, folder: Path) -> None:
    """A person opens JupyterLab with a link, runs a cell, and downloads a file."""
    origin = f"http://{base.split('/')[-2]}.localhost:{caller.env['LLMARINER_PORT']}"
    with importlib.import_module("..identity.chromium", __package__).Chromium(folder) as browser:
        open_lab(caller, base, browser, origin + caller.json("POST", f"{one}/actions:open")["path"])
        show(browser, "42")
        download(browser, f"{origin}{base}", folder)
    assert (folder / "made.txt").read_text() == "made"


def open_lab(caller: Caller, base: str, browser: Any, url: str, code: str = "print(6 * 7)") -> None:
    """Open a notebook with one cell at a URL with a link, and wait for its kernel."""
    (cell,) = NOTEBOOK["cells"]
    content = {**NOTEBOOK, "cells": [{**cell, "source": code}]}
    body = {"type": "notebook", "content": content}
    assert caller.raw("PUT", f"{base}api/contents/answer.ipynb", body)[0] in (200, 201)
    # A page whose kernel has not begun yet asks for one when a cell is run.
    session = {"path": "answer.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    assert caller.raw("POST", f"{base}api/sessions", session)[0] == 201
    browser.open(url)
    browser.open(f"{url.partition(base)[0]}{base}lab/tree/answer.ipynb?reset")
    browser.text_of(".jp-Notebook-ExecutionIndicator[data-status=idle]")


def show(browser: Any, wanted: str, every: float = 5) -> None:
    """Run the cell, until the page shows a line; again after so many seconds, since it may have come too early."""
    deadline, pressed = time.monotonic() + 120, float("-inf")
    while wanted not in (shown := browser.text).splitlines():
        assert time.monotonic() < deadline, shown
        if "Select Kernel" in shown:
            browser.press(".jp-Dialog .jp-mod-accept")
        elif time.monotonic() > pressed + every:
            browser.fill(".jp-CodeCell .cm-content", SHIFT_ENTER)
            pressed = time.monotonic()
        time.sleep(0.2)


def download(browser: Any, url: str, folder: Path) -> None:
    """Download the file `made.txt` into a folder."""
    deadline = time.monotonic() + 60
    browser.open(f"{url}files/made.txt?download=1")
    while not (folder / "made.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
