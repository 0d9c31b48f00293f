"""The real engine on a small model: this machine's engine environment, and models to wake in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.command_line import engine_environment
from llmariner.platform.serving.local_processes.memory import available_bytes
from llmariner.platform.serving.local_processes.settings import ProcessSettings
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.packages import PACKAGED
from llmariner.standalone.platform import checkout_root

__all__ = ["BASE", "TIMEOUT_SECONDS", "engine_of_this_machine", "models_of", "settings_of"]

BASE = "smollm2-135m-instruct"
TIMEOUT_SECONDS = 240
_HELD = "LLMARINER_ENGINE_TESTS"
_MAKE_ADAPTER = """
import sys
import numpy
from safetensors.numpy import save_file

dice = numpy.random.default_rng(5)
tensors = {}
for layer in range(30):
    for name, out in (("q_proj", 576), ("v_proj", 192)):
        key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        tensors[f"{key}.lora_A.weight"] = dice.normal(0, 0.3, (4, 576)).astype(numpy.float32)
        tensors[f"{key}.lora_B.weight"] = dice.normal(0, 0.3, (out, 4)).astype(numpy.float32)
save_file(tensors, sys.argv[1])
"""


@contextlib.contextmanager
def engine_of_this_machine() -> Iterator[EngineEnvironment]:
    """This machine's engine environment, for this session alone."""
    cache = StandaloneSettings.load(environment()).cache
    made = EngineEnvironment(cache, checkout_root() / "locks" / "engine.lock")
    if not made.is_installed:
        pytest.skip("`llma up` has not made the engine environment yet")
    if available_bytes() < 4 << 30:
        pytest.skip("a real engine needs 4 GiB of free memory")
    with contextlib.ExitStack() as held:
        if os.environ.get(_HELD) != str(os.getpid()):
            file = held.enter_context((cache / "engine-tests.lock").open("w"))
            deadline = time.monotonic() + 600
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                assert time.monotonic() < deadline, "another session tests real engines"
                time.sleep(1)
        yield made


def settings_of(engines: EngineEnvironment, logs: Path) -> ProcessSettings:
    """Engines of one thread: more threads than free cores cost an engine most of its speed."""
    return ProcessSettings(
        python=engines.python,
        logs=logs,
        environment={**engine_environment(1), "VLLM_CACHE_ROOT": str(engines.vllm_cache)},
    )


def models_of(engines: EngineEnvironment, adapter: Path) -> list[EngineModel]:
    """The models of the session.

    They are the packaged model, an adapter of it with random weights, one whose log probabilities come after a grammar,
    and one with an argument that vLLM rejects.
    """
    packaged = next(model for model in PACKAGED if model.id == BASE)
    folder = packaged.folder(StandaloneSettings.load(environment()).cache)
    base = EngineModel(id=BASE, folder=str(folder), task="generate", size_bytes=270 << 20, typical_wake_seconds=8)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    command = [str(engines.python), "-c", _MAKE_ADAPTER, str(adapter / "adapter_model.safetensors")]
    subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS, capture_output=True)
    return [
        base,
        replace(base, id="ft:random", base=BASE, folder=str(adapter)),
        replace(base, id="margins", extra_args=("--logprobs-mode", "processed_logprobs")),
        replace(base, id="refused", extra_args=("--no-such-argument",)),
    ]
