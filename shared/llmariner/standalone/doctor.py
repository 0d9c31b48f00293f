"""`llma doctor`: checks each part of the standalone platform and reports a remedy."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import urllib.error
from dataclasses import dataclass

from llmariner.compiled import SETTING, unusable
from llmariner.compiled.build import folder_of, missing
from llmariner.platform.serving.local_processes import memory
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone import local_http
from llmariner.standalone.daemon import MIN_FREE_BYTES, engine_environment, running_pid, runs_compiled
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel
from llmariner.standalone.platform import HomeFolder
from llmariner.standalone.warmup import answer_mismatch

__all__ = ["Check", "checks"]

_MIN_MEMORY_BYTES = 4 * 1024**3
_MIN_CACHE_BYTES = 8 * 1024**3
_ANSWER_SECONDS = 180.0
_NO_RESPONSE = "health"
"""The name of the failed check when the platform does not respond; models are not checked then."""


@dataclass(frozen=True)
class Check:
    """The result for one part: whether it is in order, details, and the remedy if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str


def checks() -> list[Check]:
    """All results, in the order in which to repair."""
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
        _token_path(settings),
        *health,
        *([] if any(check.name == _NO_RESPONSE for check in health) else _answer_checks(settings)),
    ]


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("python", ok, sys.version.split()[0], "Use Python 3.11, 3.12 or 3.13.")


def _disk(settings: StandaloneSettings) -> Check:
    existing = next(path for path in (settings.cache, *settings.cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    ok = free > _MIN_CACHE_BYTES or engine_environment(settings).is_installed
    return Check(
        "disk", ok, f"{free >> 30} GiB free at {existing}", "Free 8 GiB, or set LLMARINER_CACHE to a larger disk."
    )


def _home_disk(settings: StandaloneSettings) -> Check:
    existing = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        said = f"{existing} can't be written: {error.strerror}"
        return Check("home disk", False, said, "Set LLMARINER_HOME to a folder that you may write.")
    remedy = "Free some, or set LLMARINER_HOME to a folder on a larger disk."
    return Check("home disk", free >= MIN_FREE_BYTES, f"{free >> 20} MiB free at {existing}", remedy)


def _memory() -> Check:
    free = memory.available_bytes()
    return Check(
        "memory", free > _MIN_MEMORY_BYTES, f"{free >> 30} GiB available", "Close programs: engines need about 4 GiB."
    )


def _engine(settings: StandaloneSettings) -> Check:
    engines = engine_environment(settings)
    return Check(
        "engine environment",
        engines.is_installed,
        str(engines.folder),
        "Run `llma up`: it makes it, or continues to make it.",
    )


def _models(settings: StandaloneSettings) -> list[Check]:
    found = []
    for model in PACKAGED:
        folder = model.folder(settings.cache)
        found.append(Check(f"model {model.id}", folder.is_dir(), str(folder), "Run `llma up`: it fetches it."))
    return found


def _secrets(settings: StandaloneSettings) -> Check:
    layout = HomeFolder(settings.root)
    files = [settings.root / "pepper", settings.root / "service-secret", layout.admin_key]
    missing = [file.name for file in files if not file.exists()]
    open_ = [file.name for file in files if file.exists() and file.stat().st_mode & 0o077]
    detail = f"missing: {missing}" if missing else f"readable by others: {open_}" if open_ else "private"
    remedy = f"chmod 600 the files in {settings.root}." if open_ else "Run `llma up`: it makes them."
    return Check("secrets", not missing and not open_, detail, remedy)


def _process(settings: StandaloneSettings) -> Check:
    pid = running_pid(settings)
    return Check(
        "platform", pid is not None, f"process {pid}" if pid else "not running", "Run `llma up`; see `llma logs`."
    )


def _token_path(settings: StandaloneSettings) -> Check:
    """Machine code is faster, and not needed: what lacks for it is a detail, not a fault."""
    if running_pid(settings) is not None and runs_compiled(settings):
        detail = "compiled"
    elif setting := os.environ.get(SETTING):
        detail = f"interpreted; {SETTING} is {setting}"
    elif lacking := missing():
        detail = f"interpreted; to compile it, this machine lacks {lacking}"
    elif not unusable(folder_of(settings.cache)):
        detail = "interpreted; the next start uses the compiled one, unless it is in the foreground"
    else:
        detail = "interpreted; it is compiled after a start, see compile.log"
    return Check("token path", True, detail, "")


def _health(settings: StandaloneSettings) -> list[Check]:
    if running_pid(settings) is None:
        return []
    try:
        parts = local_http.get(f"{settings.base_url}/health", seconds=10)["parts"]
    except urllib.error.HTTPError as error:
        parts = json.loads(error.read()).get("parts", {})
    except (OSError, ValueError) as error:
        return [Check(_NO_RESPONSE, False, str(error), "See `llma logs`; restart with `llma down` and `llma up`.")]
    return [
        Check(
            name,
            part["status"] == "ok",
            part["reason"] or "ok",
            "See `llma logs`; restart with `llma down`, `llma up`.",
        )
        for name, part in parts.items()
    ]


def _answer_checks(settings: StandaloneSettings) -> list[Check]:
    """Whether each packaged model answers as expected; wakes sleeping models."""
    key = HomeFolder(settings.root).admin_key
    if running_pid(settings) is None or not key.exists():
        return []
    return [
        Check(
            f"answer of {model.id}",
            mismatch is None,
            mismatch or "as expected",
            f"See `llma logs {model.id}`. A wrong answer means that vLLM computes otherwise on this processor: "
            "run models elsewhere, or report it with the processor's name.",
        )
        for model in PACKAGED
        if model.folder(settings.cache).is_dir()
        for mismatch in (_answer_problem(settings, model, key.read_text()),)
    ]


def _answer_problem(settings: StandaloneSettings, model: PackagedModel, secret: str) -> str | None:
    try:
        return answer_mismatch(settings.base_url, secret, model, seconds=_ANSWER_SECONDS)
    except (OSError, ValueError, LookupError) as error:
        return f"none: {str(error)[:300]}"
