"""The training program as one archive, which a job gets as its script: it needs nothing of the platform installed."""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import llmariner

__all__ = ["COMMAND", "WEIGHTS_COMMAND", "archive"]

_NAME = "training.zip"
COMMAND = f"PYTHONPATH=scripts/{_NAME} exec python3 -m llmariner.fine_tuning.training_program"
"""The command line of a job that has the archive among its scripts."""
WEIGHTS_COMMAND = f'{COMMAND}.weights "$1"'
"""As of `Job.weights_command`."""
_PARTS = ("graders", "training_program")
_TIME = (2026, 1, 1, 0, 0, 0)


@functools.cache
def archive() -> dict[str, bytes]:
    """The scripts of a job: the same bytes for the same program."""
    package = Path(llmariner.__file__).parent
    tuning = package / "fine_tuning"
    files = [
        package / "model_file_names.py",
        tuning / "__init__.py",
        *(file for part in _PARTS for file in sorted((tuning / part).glob("*.py"))),
    ]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        # The package's own activates the compiled token path, which is not here.
        target.writestr(zipfile.ZipInfo(f"{package.name}/__init__.py", _TIME), b"")
        for file in files:
            name = str(file.relative_to(package.parent))
            target.writestr(zipfile.ZipInfo(name, _TIME), file.read_bytes())
    return {_NAME: content.getvalue()}
