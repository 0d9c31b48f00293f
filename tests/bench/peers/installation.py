"""A platform for the benchmark: a migrated database with one key, and each function as its image boots it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmariner.compiled.build import build, folder_of, missing
from llmariner.context import Context
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import SecretSettings
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

from ..children import free_port
from ..environments import cache
from ..target import MODEL, Site, Target

FUNCTIONS = Path(__file__).parents[3] / "functions"
CONTROL = "internal_gateway"
# The limits are checked at every request, as they should be; here they must not be reached.
UNLIMITED = {"LLMARINER_REQUESTS_PER_MINUTE": "1000000000", "LLMARINER_TOKENS_PER_MINUTE": "1000000000000"}


@dataclass(frozen=True)
class Installation:
    """What every function is started with, and the key that opens them."""

    environment: Mapping[str, str]
    headers: Mapping[str, str]
    control_port: int

    def function(self, name: str, port: int) -> Target:
        command = [sys.executable, "-m", "llmariner.boot", str(FUNCTIONS / name)]
        return Target(name, command, port, {**self.environment, "PORT": str(port)}, self.headers)

    def control(self) -> Target:
        """The function that owns the database; the token path asks it and must find it running."""
        return self.function(CONTROL, self.control_port)


def install(site: Site) -> Installation:
    """A database in the site's folder, an administrator, a key, and one model: the scripted engine."""
    port = free_port()
    environment = {
        "LLMARINER_DATABASE_URL": f"sqlite:///{site.folder}/platform.db",
        "LLMARINER_PEPPER": SecretSettings.generate(),
        "LLMARINER_SERVICE_SECRET": SecretSettings.generate(),
        "LLMARINER_CONTROL_URL": f"http://127.0.0.1:{port}",
        "HOST": "127.0.0.1",
        # As in the images; `LLMARINER_COMPILED=off` measures the sources.
        "LLMARINER_COMPILED": os.environ.get("LLMARINER_COMPILED") or str(compiled_token_path()),
        "LLMARINER_SERVING": "static",
        "LLMARINER_OBJECTS_FOLDER": f"{site.folder}/objects",
        "LLMARINER_SERVING_STATIC": json.dumps({MODEL: f"http://127.0.0.1:{site.engine_port}"}),
        **UNLIMITED,
    }
    context = Context(environment)
    upgrade(context.database)
    _, key = create_bootstrap_key(context.keys, ensure_first_owner(context.database), "bench")
    context.registry.create(NewModel(MODEL, SourceRepository.LOCAL, "scripted"))
    context.registry.mark_loaded(MODEL, folder="", size_bytes=0, task=Task.GENERATE)
    context.database.close()
    return Installation(environment, {"authorization": f"Bearer {key}"}, port)


def compiled_token_path() -> Path:
    """The folder of the compiled token path; made on first use. Where it can't be made, the sources are measured."""
    folder = folder_of(cache())
    if not folder.is_dir() and (lacking := missing()):
        print(f"the token path is measured as sources: this machine lacks {lacking}", file=sys.stderr, flush=True)
    elif not folder.is_dir():
        print("compiling the token path (once)", file=sys.stderr, flush=True)
        build(folder)
    return folder


def functions() -> list[str]:
    """Every function that the tree holds."""
    return sorted(main.parent.name for main in FUNCTIONS.glob("*/main.py"))


def first_route(name: str) -> tuple[str, str]:
    """Method and path of the first route that a function declares; its parameters filled in."""
    document = yaml.safe_load((FUNCTIONS / name / "func.yaml").read_text())
    routes: str = document["deploy"]["annotations"]["llmariner.ai/routes"]
    method, path = routes.split(maxsplit=2)[:2]
    return method, path.replace("{", "").replace("}", "").replace(":path", "")
