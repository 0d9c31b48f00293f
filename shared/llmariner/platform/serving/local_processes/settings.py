"""Settings of the engines of one machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessSettings"]


@dataclass(frozen=True)
class ProcessSettings:
    """`budget`: memory for all engines in bytes; 0: three quarters of what is available at start.

    `idle_seconds`: until a model sleeps; 0: never. `warm`: fork engines from a parent that has imported vLLM.
    `unresponsive_seconds`: an engine that does not answer for this long is killed.
    """

    python: Path
    logs: Path
    environment: dict[str, str]
    budget: int = 0
    idle_seconds: float = 300.0
    warm: bool = True
    unresponsive_seconds: float = 120.0
