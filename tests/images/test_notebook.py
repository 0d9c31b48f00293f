"""The image of notebooks, where it is built: of a known size, for no root, with JupyterLab on read-only files."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from images.build import PREFIX
from images.plan import NOTEBOOK
from images.store import Store

from .conftest import Start

pytestmark = pytest.mark.images

BUDGET_MB = 412
"""Unpacked; a tenth of room."""


@pytest.fixture
def notebook(built: Store) -> str:
    if not built.has(PREFIX + NOTEBOOK):
        pytest.skip("the image of notebooks is not built: python -m images.build --notebook")
    return NOTEBOOK


def test_it_weighs_what_is_stated_and_has_no_root(notebook: str, built: Store) -> None:
    assert built.image(PREFIX + notebook).size / 1_000_000 < BUDGET_MB
    config = json.loads(built.run("inspect", "--type", "image", PREFIX + notebook))["OCIv1"]["config"]
    assert config["User"] == "65532:65532"


def test_jupyterlab_answers_and_has_what_people_use(notebook: str, container: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["python", "-m", "jupyterlab", f"--ServerApp.port={port}", "--ServerApp.open_browser=False"]
    made = container(notebook, {"JUPYTER_TOKEN": "t"})
    with made.running(words, tmp_path) as server:
        server.wait(f"http://127.0.0.1:{port}/api", 60)
        assert server.answer(f"http://127.0.0.1:{port}/lab?token=t")[0] == 200
        found = server.answer(f"http://127.0.0.1:{port}/api/kernelspecs?token=t")[1]
        assert "python3" in found["kernelspecs"]
    modules, programs = "openai, pip, jupyter_server_proxy", ("bash", "git", "curl")
    code = f"import os, shutil, {modules}; print(os.getuid(), *map(shutil.which, {programs}))"
    folder = tmp_path / "programs"
    folder.mkdir()
    said = made.run(["python", "-c", code], folder)
    assert said.stdout.split()[0] == "65532", said.stderr
    assert "None" not in said.stdout
