"""`python -m llmariner.installation secrets|migrations|standby-token`: what the Jobs of an installation run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmariner.errors import PlatformError
from llmariner.installation.retry import RetryLater
from llmariner.platform.kube.errors import ClusterError


def main(arguments: list[str] | None = None) -> int:
    """Run one step. Exit status 0: done. 1: a prerequisite is missing or a setting is invalid; the Job retries."""
    parser = argparse.ArgumentParser(prog="python -m llmariner.installation", description=__doc__)
    commands = parser.add_subparsers(dest="step", required=True)
    secrets = commands.add_parser("secrets", help="create the missing secrets")
    secrets.add_argument(
        "--postgres", default="", metavar="HOST", help="the PostgreSQL of the installation, whose password is generated"
    )
    secrets.add_argument("--dex", action="store_true", help="create the configuration of Dex, too")
    migrations = commands.add_parser("migrations", help="migrate the database to this version")
    migrations.add_argument(
        "--first-key", type=Path, metavar="FILE", help="the administrator's first API key, registered if no key exists"
    )
    commands.add_parser("standby-token", help="create the token of standby engines in both namespaces")
    options = parser.parse_args(arguments)
    handlers = {"secrets": _secrets, "standby-token": _standby_token, "migrations": _migrations}
    try:
        for line in handlers[options.step](options):
            print(line, flush=True)
    except (ClusterError, PlatformError, RetryLater, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


# The imports are inside the functions because the image of one step does not hold the dependencies of another.
def _secrets(options: argparse.Namespace) -> list[str]:
    from llmariner.installation.secret_objects import SecretObjects
    from llmariner.installation.secrets import ensure_secrets
    from llmariner.platform.kube import Cluster
    from llmariner.settings import ClusterSettings, IdentitySettings, environment

    settings = ClusterSettings.load(environment())
    issuer = IdentitySettings.load(environment()).issuer if options.dex else None
    objects = SecretObjects(Cluster(settings), settings.namespace)
    return ensure_secrets(objects, postgres_host=options.postgres, dex_issuer=issuer)


def _standby_token(_options: argparse.Namespace) -> list[str]:
    from llmariner.installation.secret_objects import SecretObjects
    from llmariner.installation.standby_token import ensure_token
    from llmariner.platform.kube import Cluster
    from llmariner.settings import ClusterSettings, KServeSettings, environment

    settings = ClusterSettings.load(environment())
    cluster = Cluster(settings)
    models = KServeSettings.load(environment()).namespace
    return ensure_token(SecretObjects(cluster, settings.namespace), SecretObjects(cluster, models))


def _migrations(options: argparse.Namespace) -> list[str]:
    from llmariner.context import Context
    from llmariner.installation.migrations import migrate

    first_key: Path | None = options.first_key
    secret = first_key.read_text().strip() if first_key is not None and first_key.is_file() else ""
    return migrate(Context(), first_key=secret)


if __name__ == "__main__":
    sys.exit(main())
