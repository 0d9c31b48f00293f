"""What a client's script said: its lines, `ok NAME`, `failed NAME: why`, `skipped NAME: why`, as values."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["SCRIPTS", "Outcomes", "declared", "run"]

SCRIPTS = Path(__file__).parent / "scripts"
SCRIPT_SECONDS = 280
_LINE = re.compile(r"(ok|failed|skipped) (\w+)(?:: (.*))?")


class Outcomes:
    """The outcome of each capability by its name: "ok", or what else the script said."""

    cancelled = 0
    """How many requests the platform recorded as cancelled meanwhile."""

    def __init__(self, output: str, errors: str) -> None:
        self._errors = errors
        self._said: dict[str, str] = {}
        for line in output.splitlines():
            if match := _LINE.fullmatch(line):
                self._said[match[2]] = "ok" if match[1] == "ok" else line

    def __getitem__(self, capability: str) -> str:
        return self._said.get(capability, f"the script ended before {capability}: {self._errors[-1500:]}")

    @property
    def names(self) -> list[str]:
        """The capabilities that were tried, in order."""
        return list(self._said)


def run(command: Sequence[str | Path], variables: Mapping[str, str]) -> Outcomes:
    """Run a script to its end; what fails in it is for the caller to look up."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=SCRIPT_SECONDS, env=dict(variables)
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode() if isinstance(error.stdout, bytes) else ""
        return Outcomes(said, f"it took over {SCRIPT_SECONDS} s")
    return Outcomes(done.stdout, done.stderr)


def declared(script: str) -> list[str]:
    """The names in a script's table of capabilities: from the line that begins with CAPABILITIES to an empty one."""
    table = re.search(r"^(?:const )?CAPABILITIES\b.*?\n\n", (SCRIPTS / script).read_text(), re.M | re.S)
    assert table, f"{script} has no table of capabilities"
    return re.findall(r"\b[a-z]\w*", re.sub(r"^(const )?CAPABILITIES", "", table[0]))
