"""A chat model that calls functions by itself. No package has one, so it is trained here, of the packaged chat model.

Its examples are ours, and its license is that of the model it is made of, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmariner.fine_tuning.program import archive
from llmariner.standalone.engine.packages import PACKAGED
from llmariner.standalone.engine.scripts import Scripts

__all__ = ["TOOL_MODEL", "TRAINING_BYTES", "TRAINING_MILLICORES", "make_tool_model"]

TOOL_MODEL = "smollm2-135m-tools"
TRAINING_BYTES = 5 * 1024**3 // 2
"""Memory that the training takes: 2.0 GB were seen."""
TRAINING_MILLICORES = 1000
_SCRIPT = Path(__file__).with_name("make_tool_model.py")
_FILES = Path(__file__).with_name("tool_model_files")


def make_tool_model(scripts: Scripts, cache: Path, target: Path, on_progress: Callable[[float, str], None]) -> None:
    """Train the model into a folder, which appears whole or not at all, in five minutes of a processor.

    A training that was interrupted continues after its last epoch. `cache` has the packaged models. Raises OSError,
    ScriptInterrupted, and what `on_progress` raises.
    """
    base = next(model for model in PACKAGED if model.task == "generate").folder(cache)
    program = target.with_name(target.name + ".program.zip")
    target.parent.mkdir(parents=True, exist_ok=True)
    (content,) = archive().values()
    program.write_bytes(content)

    def on_line(said: dict[str, object]) -> None:
        on_progress(float(str(said["done"])) / float(str(said["total"])), str(said["what"]))

    scripts.run(_SCRIPT, [str(base), str(program), str(_FILES), str(target)], on_line)
    program.unlink()
