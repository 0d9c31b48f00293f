"""The one-machine adapter with the real engine: vLLM forked from a warm parent, or started plainly, on a small model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.local.engine.environment import EngineEnvironment
from llmariner.local.engine.packages import PACKAGED
from llmariner.local.home import checkout
from llmariner.platform.serving import EngineModel, Phase
from llmariner.platform.serving.command import engine_environment
from llmariner.platform.serving.memory import available
from llmariner.platform.serving.processes import ProcessServing, ProcessSettings
from llmariner.settings import HomeSettings, environment

from .driving import Driven, processes

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PATIENCE = 240
BASE = "smollm2-135m-instruct"
_HELD = "LLMARINER_ENGINE_TESTS"
_MAKE_ADAPTER = """
import sys
import torch
from safetensors.torch import save_file

torch.manual_seed(5)
tensors = {}
for layer in range(30):
    for name, out in (("q_proj", 576), ("v_proj", 192)):
        key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
        tensors[f"{key}.lora_A.weight"] = torch.randn(4, 576) * 0.3
        tensors[f"{key}.lora_B.weight"] = torch.randn(out, 4) * 0.3
save_file(tensors, sys.argv[1])
"""


@pytest.fixture(scope="module")
def engines() -> Iterator[EngineEnvironment]:
    """This machine's engine environment, for this session alone."""
    cache = HomeSettings.load(environment()).cache
    made = EngineEnvironment(cache, checkout() / "locks" / "engine.lock")
    if not made.made:
        pytest.skip("`llma up` has not made the engine environment yet")
    if available() < 4 << 30:
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


@pytest.fixture(scope="module")
def settings(engines: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory) -> ProcessSettings:
    return ProcessSettings(
        python=engines.python,
        logs=tmp_path_factory.mktemp("logs"),
        environment={**engine_environment(1), "VLLM_CACHE_ROOT": str(engines.vllm_cache)},
    )


@pytest.fixture(scope="module")
def models(engines: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory) -> list[EngineModel]:
    """The packaged model, an adapter of it with random weights, and the model with an argument that vLLM refuses."""
    packaged = next(model for model in PACKAGED if model.id == BASE)
    folder = packaged.folder(HomeSettings.load(environment()).cache)
    base = EngineModel(id=BASE, folder=str(folder), task="generate", size_bytes=270 << 20, typical_wake_seconds=8)
    adapter = tmp_path_factory.mktemp("adapter")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    command = [str(engines.python), "-c", _MAKE_ADAPTER, str(adapter / "adapter_model.safetensors")]
    subprocess.run(command, check=True, timeout=PATIENCE, capture_output=True)
    return [
        base,
        replace(base, id="ft:random", base=BASE, folder=str(adapter)),
        replace(base, id="refused", extra_args=("--no-such-argument",)),
    ]


@pytest.fixture(scope="module")
def warm(settings: ProcessSettings, models: list[EngineModel]) -> Iterator[tuple[Driven, ProcessServing]]:
    with processes(settings, *models) as both:
        yield both


def answer_of(driven: Driven, endpoint: str | None) -> str:
    return driven.chat(BASE, endpoint, max_tokens=24)


def test_a_warm_parent_wakes_the_model_and_wakes_it_again_faster_than_it_imported(
    warm: tuple[Driven, ProcessServing],
) -> None:
    driven, serving = warm
    began = time.monotonic()
    driven.do(serving.launcher.start())
    imported = time.monotonic() - began
    assert serving.launcher.warm, serving.launcher.reason
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        status = driven.ready(BASE, seconds=PATIENCE)
        seconds.append(time.monotonic() - began)
        assert "Paris" in answer_of(driven, status.endpoint)
        driven.sleep(BASE)
        assert driven.status(BASE).phase is Phase.ASLEEP
    print(f"\nwarm parent after {imported:.1f} s; wakes {', '.join(f'{each:.1f} s' for each in seconds)}")
    told = [phase for model, phase in driven.phases if model == BASE]
    assert told == [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.ASLEEP] * 2


def test_an_adapter_is_served_by_its_bases_engine_and_answers_otherwise(warm: tuple[Driven, ProcessServing]) -> None:
    driven, _ = warm
    driven.wake("ft:random")
    base = driven.until(lambda status: status.phase is Phase.READY, BASE, seconds=PATIENCE)
    status = driven.ready("ft:random", seconds=60)
    assert status.endpoint == base.endpoint
    plain = driven.chat(BASE, base.endpoint, max_tokens=12)
    tuned = driven.chat("ft:random", status.endpoint, max_tokens=12)
    assert tuned != plain


def test_a_killed_engine_is_noticed_and_leaves_nothing_behind(warm: tuple[Driven, ProcessServing]) -> None:
    driven, serving = warm
    driven.ready(BASE, seconds=PATIENCE)
    pid = serving._engines[BASE].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    status = driven.until(lambda status: status.phase is Phase.FAILED, BASE, seconds=10)
    print(f"\nnoticed after {time.monotonic() - began:.2f} s")
    assert "ended unexpectedly" in status.message
    assert not group_of(pid)


def group_of(leader: int) -> list[int]:
    """The processes of an engine: it leads a group of its own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def test_an_engine_that_refuses_its_arguments_says_so_itself(warm: tuple[Driven, ProcessServing]) -> None:
    driven, _ = warm
    driven.wake("refused")
    status = driven.until(lambda status: status.phase is Phase.FAILED, "refused", seconds=PATIENCE)
    assert "no-such-argument" in status.message


def test_a_plain_start_behaves_as_a_warm_one_but_for_its_time(
    warm: tuple[Driven, ProcessServing], settings: ProcessSettings, models: list[EngineModel]
) -> None:
    driven, _ = warm
    expected = answer_of(driven, driven.ready(BASE, seconds=PATIENCE).endpoint)
    driven.sleep(BASE)
    wakes: list[float] = []
    with processes(replace(settings, warm=False), *models, wakes=wakes) as (plain, serving):
        status = plain.ready(BASE, seconds=PATIENCE)
        assert (serving.launcher.warm, serving.launcher.reason) == (False, "asked for")
        assert answer_of(plain, status.endpoint) == expected
        plain.sleep(BASE)
        told = [phase for _, phase in plain.phases]
    print(f"\na plain start took {wakes[0]:.1f} s")
    assert told == [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.STOPPING, Phase.ASLEEP]
