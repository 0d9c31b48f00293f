"""Files, uploads, vector stores and searches by the `openai` packages, LangChain and LlamaIndex."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .environments import node_modules, python
from .outcomes import SCRIPTS, Outcomes, declared

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        "LLMARINER_E2E_CLUSTER" in os.environ, reason="the test cluster has no store of files and no index of vectors"
    ),
]
NODE = "openai_node_storage.mjs"
CLIENTS = {
    "openai-3": "openai_python_storage.py",
    "openai-2": "openai_python_storage.py",
    "langchain-openai": "langchain_storage.py",
    "llama-index": "llama_index_storage.py",
    "openai-node": NODE,
}


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes(client: str, tried: Callable[..., Outcomes], tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    if client != "openai-node":
        return tried(python(client), SCRIPTS / CLIENTS[client])
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(node_modules())
    return tried("node", Path(shutil.copy(SCRIPTS / NODE, folder)))


def test_the_client_supports_all_that_its_script_declares(client: str, outcomes: Outcomes) -> None:
    tried_ones = declared(CLIENTS[client])
    assert {name: outcomes[name] for name in tried_ones} == dict.fromkeys(tried_ones, "ok")
    assert outcomes.names == tried_ones
