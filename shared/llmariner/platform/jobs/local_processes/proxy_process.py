"""Starts the proxy of a job, and says how its programs find it."""

from __future__ import annotations

import socket
import subprocess
import sys

__all__ = ["PROXY_PORT", "proxy_environment", "start_proxy"]

PROXY_PORT = 3128
"""In the job's own network."""
_PROGRAM = "llmariner.platform.jobs.local_processes.https_proxy"


def proxy_environment() -> dict[str, str]:
    """The variables by which programs find the proxy."""
    url, local = f"http://127.0.0.1:{PROXY_PORT}", "localhost,127.0.0.1,::1"
    found = {"HTTPS_PROXY": url, "HTTP_PROXY": url, "NO_PROXY": local}
    return found | {name.lower(): value for name, value in found.items()}


def start_proxy(
    user_id: int, *, platform: str = "", internet: bool = True
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process; the socket takes the one to listen on, sent with `socket.send_fds`.

    `platform`: the address (`host:port`) to which it passes requests on that are not for a proxy; empty: it refuses them.
    """
    sender, receiver = socket.socketpair()
    with receiver:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _PROGRAM, str(user_id), platform, *(["internet"] if internet else [])],
            stdin=receiver.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the job decides how often something fails
        )
    return process, sender
