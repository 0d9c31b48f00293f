"""The command line of JupyterLab."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from llmariner.platform.jobs.local_processes.proxy_process import PROXY_PORT
from llmariner.platform.notebooks import NotebookServer, base_url_of, start_program

__all__ = [
    "PORT",
    "RESERVED_PORTS",
    "SOCKET",
    "jupyter_command",
    "jupyter_environment",
    "jupyter_options",
    "jupyter_words",
]

SOCKET = ".jupyter.sock"
"""The Unix socket that it listens on, in its folder."""
PORT = 8888
"""The port on which it listens in a pod, as by default."""
RESERVED_PORTS = frozenset({PORT, PROXY_PORT})
"""What is behind them is the platform's: JupyterLab itself, and the way to the platform and the internet."""


def jupyter_options(server: NotebookServer, *, folder: str, idle_seconds: int) -> dict[str, str]:
    """Its options but for where it listens. It ends by itself after `idle_seconds` without work and requests."""
    return {
        "ServerApp.base_url": base_url_of(server.notebook_id),
        "ServerApp.root_dir": folder,
        "ServerApp.open_browser": "False",
        "ServerApp.allow_remote_access": "True",
        "ServerApp.shutdown_no_activity_timeout": str(idle_seconds),
        "ServerApp.quit_button": "True",
        "MappingKernelManager.cull_idle_timeout": str(idle_seconds),
        "MappingKernelManager.cull_interval": str(max(1, min(60, idle_seconds // 4))),
        "MappingKernelManager.cull_connected": "True",
        "TerminalManager.cull_inactive_timeout": str(idle_seconds),
        "TerminalManager.cull_interval": str(max(1, min(60, idle_seconds // 4))),
        "LabApp.extension_manager": "readonly",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
    }


def jupyter_words(options: Mapping[str, str]) -> list[str]:
    """The words of the command with these options."""
    program = Path(start_program.__file__).read_text()
    return ["python", "-I", "-c", program, *(f"--{name}={value}" for name, value in options.items())]


def jupyter_command(server: NotebookServer, *, idle_seconds: int) -> str:
    """The shell command of a notebook on one machine.

    It listens on a Unix socket alone: nothing but the platform, which authenticates people, reaches it.
    """
    options = jupyter_options(server, folder="/job", idle_seconds=idle_seconds)
    words = jupyter_words({"ServerApp.sock": f"/job/{SOCKET}", **options})
    # Beside a shell the socket of an earlier start would stay.
    return f"rm -f /job/{SOCKET}; exec {shlex.join(words)}"


def jupyter_environment(server: NotebookServer) -> Mapping[str, str]:
    """The variables of its programs."""
    url = f"http://127.0.0.1:{PROXY_PORT}/v1"
    own = {
        "JUPYTER_TOKEN": server.token,
        "OPENAI_BASE_URL": url,
        "LLMARINER_BASE_URL": url,
        "SHELL": "/bin/bash",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    return {**server.environment, **own}
