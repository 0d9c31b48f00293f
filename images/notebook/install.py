"""The build step of the image of notebooks: JupyterLab of locks/notebook.lock in /opt/notebook, checked by its hashes.

The environment has pip, by which notebooks install packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, ".")

from images.install import TOOLS, run

NOTEBOOK, LOCK = Path("/opt/notebook"), Path("locks/notebook.lock")


def main() -> None:
    """Exits with status 1 and a message if a package is unavailable."""
    uv = str(TOOLS / "bin/uv")
    run(uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(NOTEBOOK))
    run(
        *(uv, "pip", "install", "--quiet", "--python", str(NOTEBOOK / "bin/python")),
        *("--no-deps", "--require-hashes", "--link-mode", "copy", "-r", str(LOCK)),
    )


if __name__ == "__main__":
    main()
