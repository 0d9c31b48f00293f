"""The plugin in vLLM that reports usage of completed requests, with vLLM's output processor."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmariner.platform import serving

FILE = Path(serving.__file__).with_name("engine_plugins") / "request_usage.py"
REQUEST = "req_0123456789abcdef"


class OutputProcessor:
    """The part of vLLM's that the plugin reads."""

    def __init__(self) -> None:
        self.request_states: dict[str, Any] = {}

    def begin(
        self, key: str, prompt: int, made: int, *, prefilling: bool = False, name: str = f"cmpl-{REQUEST}-0"
    ) -> None:
        self.request_states[key] = SimpleNamespace(
            request_id=key,
            external_req_id=name,
            prompt_len=prompt,
            num_cached_tokens=0,
            is_prefilling=prefilling,
            detokenizer=SimpleNamespace(num_output_tokens=lambda: made),
        )

    def abort_requests(self, request_ids: Iterable[str], internal: bool) -> None:
        for key in request_ids:
            self.request_states.pop(key, None)

    def _finish_request(self, state: Any) -> None:
        self.request_states.pop(state.request_id)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Fresh(OutputProcessor):
        """Patched by the plugin, and so of this test alone."""

        abort_requests = OutputProcessor.abort_requests
        _finish_request = OutputProcessor._finish_request

    vllm = ModuleType("vllm.v1.engine.output_processor")
    vllm.OutputProcessor = Fresh  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, vllm.__name__, vllm)
    spec = importlib.util.spec_from_file_location("request_usage", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.01)
    return SimpleNamespace(usage=module.RequestUsage(None), processor=Fresh())


def reported(plugin: Any, request_id: str = REQUEST) -> tuple[int, dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(plugin.usage({"type": "http", "path": f"/llmariner/usage/{request_id}"}, None, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def counted(prompt: int, completion: int) -> tuple[int, dict[str, int]]:
    return 200, {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0}


def test_a_prompt_of_a_disconnected_client_counts(plugin: Any) -> None:
    plugin.processor.begin("a", 100_000, 0, prefilling=True)
    plugin.processor.abort_requests(["a"], False)
    assert reported(plugin) == counted(100_000, 0)


def test_a_prompt_counts_once_and_each_choice_separately(plugin: Any) -> None:
    plugin.processor.begin("0_a", 10, 5)
    plugin.processor.begin("1_a", 10, 7)
    plugin.processor.begin("b", 20, 1, name=f"cmpl-{REQUEST}-1")
    plugin.processor._finish_request(plugin.processor.request_states["0_a"])
    plugin.processor.abort_requests(["1_a", "b"], False)
    assert reported(plugin) == counted(30, 13)


def test_a_running_request_is_distinguished_from_an_unknown_one(plugin: Any) -> None:
    plugin.processor.begin("0_a", 10, 5)
    plugin.processor.begin("1_a", 10, 7)
    plugin.processor.abort_requests(["0_a"], False)
    assert reported(plugin) == (503, {"error": {"message": "this request is still running"}})
    assert reported(plugin, "req_ffffffffffffffff")[0] == 404
    plugin.processor.abort_requests(["1_a"], False)
    assert reported(plugin) == counted(10, 12)
