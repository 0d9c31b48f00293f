"""`python -m llmariner.installation secrets|migrations|standby-token`: what the Jobs of an installation run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmariner.errors import PlatformError
from llmariner.installation.retry import Waiting
from llmariner.platform.kube.errors import ClusterError


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done. 1: not yet, or a setting is wrong; the message says what is missing, and the Job tries again."""
    parser = argparse.ArgumentParser(prog="python -m llmariner.installation", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    secrets = steps.add_parser("secrets", help="make the secrets that are missing")
    secrets.add_argument("--postgres", default="", metavar="HOST", help="a PostgreSQL of ours, whose password is made")
    secrets.add_argument("--dex", action="store_true", help="the configuration of Dex, too")
    migrations = steps.add_parser("migrations", help="bring the database up to this version")
    migrations.add_argument(
        "--first-key", type=Path, metavar="FILE", help="the administrator's, if there is no key yet"
    )
    steps.add_parser("standby-token", help="make the token of standby engines, for both namespaces")
    chosen = parser.parse_args(arguments)
    done = {"secrets": _secrets, "standby-token": _standby_token, "migrations": _migrations}
    try:
        for line in done[chosen.step](chosen):
            print(line, flush=True)
    except (ClusterError, PlatformError, Waiting, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


# Imported only when chosen: the image of the one step does not hold what the other needs.
def _secrets(chosen: argparse.Namespace) -> list[str]:
    from llmariner.installation.secret_objects import SecretObjects
    from llmariner.installation.secrets import make
    from llmariner.platform.kube import Cluster
    from llmariner.settings import ClusterSettings, IdentitySettings, environment

    settings = ClusterSettings.load(environment())
    issuer = IdentitySettings.load(environment()).issuer if chosen.dex else None
    objects = SecretObjects(Cluster(settings), settings.namespace)
    return make(objects, postgres_host=chosen.postgres, dex_issuer=issuer)


def _standby_token(_chosen: argparse.Namespace) -> list[str]:
    from llmariner.installation.secret_objects import SecretObjects
    from llmariner.installation.standby_token import make
    from llmariner.platform.kube import Cluster
    from llmariner.settings import ClusterSettings, KServeSettings, environment

    settings = ClusterSettings.load(environment())
    cluster = Cluster(settings)
    models = KServeSettings.load(environment()).namespace
    return make(SecretObjects(cluster, settings.namespace), SecretObjects(cluster, models))


def _migrations(chosen: argparse.Namespace) -> list[str]:
    from llmariner.context import Context
    from llmariner.installation.migrations import migrate

    first_key: Path | None = chosen.first_key
    secret = first_key.read_text().strip() if first_key is not None and first_key.is_file() else ""
    return migrate(Context(), first_key=secret)


if __name__ == "__main__":
    sys.exit(main())
