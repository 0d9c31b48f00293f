"""The model that calls functions: made in the engine environment, here of a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llmariner.standalone.engine import tool_model

from .conftest import Program

FILES = Path(tool_model.__file__).with_name("tool_model_files")
EXAMPLES = [json.loads(line) for line in (FILES / "examples.jsonl").read_text().splitlines()]


def few_examples(folder: Path, count: int) -> Path:
    folder.mkdir()
    shutil.copy(FILES / "chat_template.jinja", folder)
    (folder / "examples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in EXAMPLES[:count]))
    return folder


def test_every_example_is_trained_as_its_answer(program: Program, tmp_path: Path) -> None:
    shown = tmp_path / "model"
    shutil.copytree(program.model, shown)
    shutil.copy(FILES / "chat_template.jinja", shown)
    encoded = json.loads(program.script("encoded_lines.py", str(shown), "512", stdin=json.dumps(EXAMPLES)))
    assert len(encoded) == len(EXAMPLES) >= 60
    for example, found in zip(EXAMPLES, encoded, strict=True):
        [[trained, whole]] = found["texts"]
        last = example["messages"][-1]
        for call in last.get("tool_calls", []):
            called = call["function"]
            expected = f'<tool_call>{{"name": "{called["name"]}", "arguments": {called["arguments"]}}}</tool_call>'
            assert trained == f"{expected}<|im_end|>"
        if "content" in last:
            assert trained == f"{last['content']}<|im_end|>"
        for offered in example.get("tools", []):
            assert f'{{"name": "{offered["function"]["name"]}", "description": ' in whole


def test_an_interrupted_training_continues_and_the_model_appears_whole(program: Program, tmp_path: Path) -> None:
    target, files = tmp_path / "made", few_examples(tmp_path / "files", 12)
    script = Path(tool_model.__file__).with_name("make_tool_model.py")
    command = [str(each) for each in (script, program.model, program.archive, files, target)]
    with program.popen(*command) as process:
        assert process.stdout is not None
        steps = []
        for line in process.stdout:
            steps.append(json.loads(line)["done"])
            if steps[-1] == 5:  # the second epoch of three steps
                process.kill()
    assert not target.exists()
    with program.popen(*command) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    first, *rest = [json.loads(line)["done"] for line in out.splitlines()][1:]
    assert (first, rest) == (3, [4, 5, 6, 7, 8, 9])
    assert "<tool_call>" in (target / "chat_template.jinja").read_text()
    assert (target / "model.safetensors").stat().st_size == (program.model / "model.safetensors").stat().st_size
    assert (target / "model.safetensors").read_bytes() != (program.model / "model.safetensors").read_bytes()
    assert not target.with_name("made.work").exists()
