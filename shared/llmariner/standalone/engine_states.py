"""The engines of this machine as `sessions.machine` shows them as pods."""

from __future__ import annotations

import asyncio
from pathlib import Path

from llmariner.platform.serving import Phase
from llmariner.platform.serving.local_processes.adapter import ProcessServing
from llmariner.platform.serving.local_processes.engine import log_name
from llmariner.sessions.machine.engines import MachineEngine

__all__ = ["engine_states"]

_CALL_SECONDS = 10.0


def engine_states(serving: ProcessServing, loop: asyncio.AbstractEventLoop, logs: Path) -> list[MachineEngine]:
    """What runs, waits, or failed when it was last started. `loop`: that of `serving`; called in another thread."""
    return asyncio.run_coroutine_threadsafe(_states(serving, logs), loop).result(_CALL_SECONDS)


async def _states(serving: ProcessServing, logs: Path) -> list[MachineEngine]:
    found = {
        each.model.id: MachineEngine(
            each.model.id,
            each.phase,
            each.message,
            each.log,
            each.created_at,
            None if each.phase is Phase.QUEUED else each.created_at,
        )
        for each in serving.engines
    }
    for model_id, failure in serving.failures.items():
        if model_id not in found and failure.ended_at:
            at = failure.ended_at
            log = logs / log_name(model_id)
            found[model_id] = MachineEngine(model_id, Phase.FAILED, failure.message, log, at, at, at)
    return list(found.values())
