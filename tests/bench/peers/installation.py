"""A platform for the benchmark: a migrated database with one key, and each function as its image boots it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings, Secret, SecretSettings
from llmariner.tenancy.bootstrap import first_owner, make_admin_key
from llmariner.tenancy.keys import Keys

from ..children import free_port
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
    pepper, service = SecretSettings.generate(), SecretSettings.generate()
    url = f"sqlite:///{site.folder}/platform.db"
    database = Database(DatabaseSettings(url))
    upgrade(database)
    _, key = make_admin_key(Keys(database, Secret(pepper)), first_owner(database), "bench")
    database.close()
    port = free_port()
    environment = {
        "LLMARINER_DATABASE_URL": url,
        "LLMARINER_PEPPER": pepper,
        "LLMARINER_SERVICE_SECRET": service,
        "LLMARINER_CONTROL_URL": f"http://127.0.0.1:{port}",
        "LLMARINER_SERVING": "static",
        "LLMARINER_SERVING_STATIC": json.dumps({MODEL: f"http://127.0.0.1:{site.engine_port}"}),
        **UNLIMITED,
    }
    return Installation(environment, {"authorization": f"Bearer {key}"}, port)


def functions() -> list[str]:
    """Every function that the tree holds."""
    return sorted(main.parent.name for main in FUNCTIONS.glob("*/main.py"))


def first_route(name: str) -> tuple[str, str]:
    """Method and path of the first route that a function declares; its parameters filled in."""
    document = yaml.safe_load((FUNCTIONS / name / "func.yaml").read_text())
    routes: str = document["deploy"]["annotations"]["llmariner.ai/routes"]
    method, path = routes.split(maxsplit=2)[:2]
    return method, path.replace("{", "").replace("}", "").replace(":path", "")
