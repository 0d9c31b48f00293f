"""Training of an adapter for a base model in 4 bits: what it learns is right for the rounded weights, also when resumed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmariner.fine_tuning.adapter_file import adapter_configuration

from .conftest import Program
from .scripted_platform import TOKEN, ScriptedPlatform, scripted_platform
from .test_training import TRAINING, files_for, losses

pytestmark = pytest.mark.engine


def test_an_adapter_is_trained_for_weights_of_4_bits_and_a_state_continues_it(
    program: Program, platform: ScriptedPlatform, tmp_path: Path
) -> None:
    rounded = tmp_path / "rounded"
    plan = {**TRAINING, "measures_base": True}
    platform.plan = {**plan, **files_for(platform), "training_type": "qlora", "model_folder": str(program.decided)}
    platform.continues = True
    with scripted_platform() as plain:
        plain.plan = {**plan, **files_for(plain), "model_folder": str(rounded)}
        urls = [f"{each.url}/job" for each in (platform, platform, plain)]
        arguments = (str(program.decided), str(rounded), str(tmp_path / "work"), *urls)
        said = program.script("quantized_runs.py", *arguments, stdin=TOKEN)
    found = losses(platform)  # which compares the steps of the second epoch: they were taken twice
    assert [each["step"] for each in platform.of_type("step")] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert found[6] < found[1]
    first, second = platform.of_type("finished")
    [expected] = plain.of_type("finished")
    assert first["base_valid_loss"] == second["base_valid_loss"] == pytest.approx(expected["base_valid_loss"], rel=1e-4)
    assert found == pytest.approx(losses(plain), rel=1e-3), "as an adapter of the rounded weights"
    # Of 12.9 MB in 32 bits 12.6 MB are embeddings, which stay.
    assert {float(each) for each in re.findall(r"The base model takes ([0-9.]+) MB", said)} == {12.6}
    adapter = platform.files[f"/files/{platform.of_type('checkpoint')[0]['file_id']}"]
    assert b'"r": 16' in adapter_configuration(iter([adapter]), "tiny")
