"""Training of all weights: what is uploaded is a whole model, and an interrupted job has the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmariner.fine_tuning.model_archive import write_model_folder
from llmariner.platform.model_files.blobs import BlobStore

from .conftest import Program
from .scripted_platform import ScriptedPlatform
from .test_training import TRAINING, files_for, losses

pytestmark = pytest.mark.engine


def test_a_whole_model_is_trained_and_a_state_continues_it_with_one_worker_or_two(
    program: Program, platform: ScriptedPlatform, tmp_path: Path
) -> None:
    plan = {**TRAINING, "training_type": "full", "learning_rate": 2e-3, "model_folder": str(program.model)}
    platform.plan = {**plan, **files_for(platform), "measures_base": True}
    platform.continues = True
    program.run_in_turn(platform, platform)
    by_one = [*platform.records]
    found = losses(platform)  # which compares the steps of the second epoch: they were taken twice
    assert [each["step"] for each in platform.of_type("step")] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert found[6] < found[1]
    first, second = platform.of_type("finished")
    assert first["base_valid_loss"] == second["base_valid_loss"]
    one, *_, last = (platform.files[f"/files/{each['file_id']}"] for each in platform.of_type("checkpoint"))
    assert last == platform.files[f"/files/{platform.of_type('checkpoint')[1]['file_id']}"], "the same archive, too"
    folder, state = tmp_path / "model", tmp_path / "state.safetensors"
    write_model_folder(iter([one]), folder, BlobStore(tmp_path / "blobs"), lambda: None)
    for path in program.model.iterdir():
        same = (folder / path.name).read_bytes() == path.read_bytes()
        assert same is (path.name != "model.safetensors"), path.name
        assert (folder / path.name).stat().st_size == path.stat().st_size
    state.write_bytes(platform.files[f"/files/{platform.of_type('state')[0]['file_id']}"])
    said = json.loads(program.script("same_model.py", str(program.model), str(state), str(folder)))
    assert (said["equal"], said["all"], said["changed"], said["format"]) == (True, True, True, "torch.bfloat16")
    assert said["far"] > 0.01
    platform.records[:] = platform.of_type("state")
    with program.start(platform, workers=2) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {each["step"] for each in platform.of_type("step")} == {4, 5, 6}
    for each, alone in zip(platform.records[1:], by_one[-len(platform.records[1:]) :], strict=True):
        assert each["type"] == alone["type"]
        for name in ("train_loss", "full_valid_loss", "trained_tokens"):
            assert each.get(name) == pytest.approx(alone.get(name), abs=1e-5), (each, alone)
