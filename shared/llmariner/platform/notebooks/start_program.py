"""The program that starts JupyterLab in a notebook: with an environment for packages, which is kept with the files.

Its source is passed to the Python of the notebook's image: it uses the standard library alone.
"""

import json
import os
import sys
from pathlib import Path

PACKAGES = "/job/.packages"
"""The environment: what `pip` installs is in it, beside the packages of the image."""


def prepare(environment: Path) -> None:
    """Make the environment, or bring an earlier one to this Python. Idempotent.

    Raises OSError or ValueError where no room is left, or something else is in its place.
    """
    import venv

    for path in (environment / "pyvenv.cfg", *(environment / "bin").glob("*")):
        # The Python of an earlier image, or what is in its place; and pipes: to write to one would wait for its reader.
        if path.is_fifo() or path.name.rstrip(".0123456789") == "python":
            path.unlink()
    venv.create(environment, symlinks=True)
    site = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    # The environment itself is where earlier releases installed packages.
    shared = [str(environment), *(each for each in sys.path if each.endswith("-packages"))]
    _write(site / "image.pth", "\n".join(shared) + "\n")
    python = environment / "bin/python"
    pip = environment / "bin/pip"
    _write(pip, f'#!/bin/sh\nexec {python} -m pip "$@"\n')
    pip.chmod(0o755)
    # Apart from what packages install: JupyterLab's own Python runs no kernels.
    kernel = environment / "jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    _write(kernel, json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))


def _write(path: Path, text: str) -> None:
    """Write a file again, whatever was in its place: a link's target stays as it is."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def main(arguments: list[str]) -> None:
    """Become JupyterLab with these arguments."""
    environment = Path(PACKAGES)
    try:
        prepare(environment)
    except (OSError, ValueError) as error:
        # The image's own kernel runs: files can be deleted with it.
        print(f"Packages can't be installed: {error}", file=sys.stderr, flush=True)
    else:
        folders = [str(environment / "jupyter"), str(environment / "share/jupyter"), os.environ.get("JUPYTER_PATH", "")]
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, folders))
        os.environ["PATH"] = os.pathsep.join([str(environment / "bin"), os.environ.get("PATH", os.defpath)])
    # Isolated: a person's file with the name of a module must not keep it from starting.
    os.execv(sys.executable, [sys.executable, "-I", "-m", "jupyterlab", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
