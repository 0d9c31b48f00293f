"""`llma up` before anything is set up or started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def test_a_taken_port_is_told_before_the_setup(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        places = {"LLMARINER_HOME": str(tmp_path / "home"), "LLMARINER_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", "from llmariner.cli.main import main; import sys; sys.exit(main())", "up"]
        done = subprocess.run(
            command,
            env={**os.environ, **places, "LLMARINER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 5
    assert f"Port {port} of 127.0.0.1 can't be had" in done.stderr
    assert "LLMARINER_PORT" in done.stderr
    assert not (tmp_path / "cache").exists()
