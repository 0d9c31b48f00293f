"""The snippets of the pages run unchanged and print the documented output."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from .conftest import Platform, Variables
from .environments import node_modules, python

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
CHECKOUT = Path(__file__).parents[3]
SNIPPET_SECONDS = 280
TRAINING_SECONDS = 1500
"""A minute on a free core, and much more where other work takes the cores: trainings have the lowest priority."""
# Which interpreter a page's snippets of a language run in.
PYTHONS = {
    "openai-python": "openai-3",
    "langchain": "langchain-openai",
    "llama-index": "llama-index",
    "README": "openai-3",
    "knowledge": "openai-3",
    "fine-tuning": "openai-3",
}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Snippet:
    """A block of code and its output; `printed` None: the page shows no output."""

    page: str
    language: str
    code: str
    printed: str | None


def snippets(page: Path) -> Iterator[Snippet]:
    """The blocks of a page, each with the `text` block that follows it."""
    blocks = FENCE.findall(page.read_text())
    for (language, code), (next_language, output) in pairwise([*blocks, ("", "")]):
        if language != "text":
            yield Snippet(page.stem, language, code, output if next_language == "text" else None)


PAGES = [
    *(CHECKOUT / each for each in ("README.md", "docs/knowledge.md")),
    *sorted((CHECKOUT / "docs/clients").glob("*.md")),
    # Last: it leaves models behind, and others list those that there are.
    CHECKOUT / "docs/fine-tuning.md",
]
# A cluster need not have a store of files and an index of vectors.
STORAGE = re.compile(r"llma storage|/files\b|vector_stores|vectorStores|fine_tuning")
ALL = [snippet for page in PAGES for snippet in snippets(page)]


def command(snippet: Snippet, folder: Path) -> list[str]:
    """How a snippet is run, by its language."""
    if snippet.language == "python":
        return [str(python(PYTHONS[snippet.page])), "-c", snippet.code]
    if snippet.language == "js":
        (folder / "node_modules").symlink_to(node_modules())
        file = folder / "snippet.mjs"
        file.write_text(snippet.code)
        return ["node", str(file)]
    assert snippet.language == "sh", f"no test runs {snippet.language}: indent what is not to be run"
    return ["bash", "-euo", "pipefail", "-c", snippet.code]


@pytest.mark.parametrize("snippet", ALL, ids=[f"{s.page}-{n}-{s.language}" for n, s in enumerate(ALL)])
def test_a_snippet_prints_the_documented_output(
    snippet: Snippet, platform: Platform, variables: Callable[[], Variables], tmp_path: Path
) -> None:
    if os.environ.get("LLMARINER_E2E_CLUSTER") and STORAGE.search(snippet.code):
        pytest.skip("the test cluster has no store of files and no index of vectors")
    env = {**variables(), "LLMARINER_BASE_URL": platform.base_url, "LLMARINER_API_KEY": platform.api_key}
    run = command(snippet, tmp_path)
    seconds = TRAINING_SECONDS if snippet.page == "fine-tuning" else SNIPPET_SECONDS
    done = subprocess.run(run, check=False, capture_output=True, text=True, timeout=seconds, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if snippet.printed is not None:
        assert done.stdout.rstrip().splitlines() == snippet.printed.rstrip().splitlines()


def test_every_client_has_a_page_with_snippets() -> None:
    with_snippets = {snippet.page for snippet in ALL if snippet.printed is not None}
    assert with_snippets >= {"openai-python", "openai-node", "langchain", "llama-index", "curl", "llma"}
