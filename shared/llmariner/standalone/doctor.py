"""`llma doctor`: checks each part of the one-machine platform and says how to mend it."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import urllib.error
from dataclasses import dataclass

from llmariner.platform.serving.local_processes import memory
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone import local_http as loopback
from llmariner.standalone.daemon import LEAST_FREE, engine_environment_of, running
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel
from llmariner.standalone.platform import Layout
from llmariner.standalone.warmup import wrong_answer

__all__ = ["Check", "checks"]

_MEMORY = 4 * 1024**3
_DISK = 8 * 1024**3
_ANSWER_SECONDS = 180.0
_SILENT = "health"
"""Names the check of a platform that answers nothing: its models need not be asked."""


@dataclass(frozen=True)
class Check:
    """One part: whether it is well, what was seen, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    mend: str


def checks() -> list[Check]:
    """All checks, in the order in which one would mend."""
    settings = StandaloneSettings.load(environment())
    health = _health(settings)
    return [
        _python(),
        _disk(settings),
        _home_disk(settings),
        _memory(),
        _engine(settings),
        *_models(settings),
        _secrets(settings),
        _process(settings),
        *health,
        *([] if any(check.name == _SILENT for check in health) else _answers(settings)),
    ]


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", ok, sys.version.split()[0], "Use Python 3.11, 3.12 or 3.13.")


def _disk(settings: StandaloneSettings) -> Check:
    place = next(path for path in (settings.cache, *settings.cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    ok = free > _DISK or engine_environment_of(settings).made
    return Check(
        "disk", ok, f"{free >> 30} GiB free at {place}", "Free 8 GiB, or set LLMARINER_CACHE to a larger disk."
    )


def _home_disk(settings: StandaloneSettings) -> Check:
    place = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        said = f"{place} can't be written: {error.strerror}"
        return Check("home disk", False, said, "Set LLMARINER_HOME to a folder that you may write.")
    mend = "Free some, or set LLMARINER_HOME to a folder on a larger disk."
    return Check("home disk", free >= LEAST_FREE, f"{free >> 20} MiB free at {place}", mend)


def _memory() -> Check:
    free = memory.available_bytes()
    return Check("memory", free > _MEMORY, f"{free >> 30} GiB available", "Close programs: engines need about 4 GiB.")


def _engine(settings: StandaloneSettings) -> Check:
    engines = engine_environment_of(settings)
    return Check(
        "engine environment", engines.made, str(engines.folder), "Run `llma up`: it makes it, or goes on making it."
    )


def _models(settings: StandaloneSettings) -> list[Check]:
    found = []
    for model in PACKAGED:
        folder = model.folder(settings.cache)
        found.append(Check(f"model {model.id}", folder.is_dir(), str(folder), "Run `llma up`: it fetches it."))
    return found


def _secrets(settings: StandaloneSettings) -> Check:
    layout = Layout(settings.root)
    files = [settings.root / "pepper", settings.root / "service-secret", layout.admin_key]
    missing = [file.name for file in files if not file.exists()]
    open_ = [file.name for file in files if file.exists() and file.stat().st_mode & 0o077]
    detail = f"missing: {missing}" if missing else f"readable by others: {open_}" if open_ else "private"
    mend = f"chmod 600 the files in {settings.root}." if open_ else "Run `llma up`: it makes them."
    return Check("secrets", not missing and not open_, detail, mend)


def _process(settings: StandaloneSettings) -> Check:
    pid = running(settings)
    return Check(
        "platform", pid is not None, f"process {pid}" if pid else "not running", "Run `llma up`; see `llma logs`."
    )


def _health(settings: StandaloneSettings) -> list[Check]:
    if running(settings) is None:
        return []
    try:
        parts = loopback.get(f"{settings.base_url}/health", seconds=10)["parts"]
    except urllib.error.HTTPError as error:
        parts = json.loads(error.read()).get("parts", {})
    except (OSError, ValueError) as error:
        return [Check(_SILENT, False, str(error), "See `llma logs`; restart with `llma down` and `llma up`.")]
    return [
        Check(
            name,
            part["status"] == "ok",
            part["reason"] or "ok",
            "See `llma logs`; restart with `llma down`, `llma up`.",
        )
        for name, part in parts.items()
    ]


def _answers(settings: StandaloneSettings) -> list[Check]:
    """Whether each packaged model, woken if it sleeps, answers as on every other machine."""
    key = Layout(settings.root).admin_key
    if running(settings) is None or not key.exists():
        return []
    return [
        Check(
            f"answer of {model.id}",
            complaint is None,
            complaint or "as expected",
            f"See `llma logs {model.id}`. A wrong answer means that vLLM computes otherwise on this processor: "
            "run models elsewhere, or report it with the processor's name.",
        )
        for model in PACKAGED
        if model.folder(settings.cache).is_dir()
        for complaint in (_complaint(settings, model, key.read_text()),)
    ]


def _complaint(settings: StandaloneSettings, model: PackagedModel, secret: str) -> str | None:
    try:
        return wrong_answer(settings.base_url, secret, model, seconds=_ANSWER_SECONDS)
    except (OSError, ValueError, LookupError) as error:
        return f"none: {str(error)[:300]}"
