"""The memory limits of functions on the token path follow from the bounds of their buffers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmariner.gateway.responses.server_sent_events import _MAX_EVENT_BYTES
from llmariner.models.copies.slices import SliceLimits
from llmariner.settings import GatewaySettings

FUNCTIONS = Path(__file__).parents[2] / "functions"
TOKEN_PATH = ("chat_completions", "completions", "embeddings", "rerank", "tokenize", "detokenize")
MIB = 1 << 20
# Estimates: what a process holds that served some requests, and, from the sizes of objects, what parsing takes per byte
# of the most costly body.
PROCESS = 80 * MIB
PARSING = 12
# What a server reads of a body before anybody asks for it.
READ_AHEAD = 256 * 1024


@pytest.mark.parametrize("name", TOKEN_PATH)
def test_the_sum_of_all_buffers_fits_the_memory_limit(name: str) -> None:
    text = (FUNCTIONS / name / "func.yaml").read_text()
    limit, concurrency = re.search(r"memory: (\d+)Mi\s+concurrency: (\d+)", text.split("limits:")[1]).groups()  # type: ignore[union-attr]
    settings = GatewaySettings()
    # A body is there twice while it is written to an engine, and so is a large answer while it is read.
    held = 2 * (settings.body_buffer_bytes + settings.response_buffer_bytes) + PARSING * settings.body_limit
    held += int(concurrency) * (READ_AHEAD + _MAX_EVENT_BYTES)
    assert int(limit) * MIB >= PROCESS + held


@pytest.mark.parametrize("name", ["model-loader", "model-load-continuation"])
def test_copies_of_models_that_one_process_makes_at_once_fit_its_memory(name: str) -> None:
    text = (FUNCTIONS.parent / f"manifests/base/60-eventing/{name}.yaml").read_text()
    concurrency, gib = re.search(r"containerConcurrency: (\d+).*memory: (\d+)Gi", text, re.DOTALL).groups()  # type: ignore[union-attr]
    limits = SliceLimits()
    # Besides the chunks that are fetched: one that is stored, twice while it is sent, and what the allocator keeps of such
    # large blocks. Ten slices were measured at 6.7 chunks each without sending.
    held = int(concurrency) * limits.chunk_bytes * (limits.ahead + 6)
    assert int(gib) << 30 >= 2 * PROCESS + held
