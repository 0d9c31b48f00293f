"""`python -m tests.cluster.lab up|down|status|build|built`: a real cluster on this machine, for tests."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .cluster import bring_down, bring_up, status
from .diagnosis import diagnosis
from .images import load
from .pins import PROJECTS
from .places import Lab
from .program_builds import build, is_built
from .wait import LabError


def main() -> int:
    """The command's exit code: 0, or 1 with one message about what failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.lab", description=__doc__)
    parser.add_argument("--number", type=int, choices=(0, 1), default=0, help="which of two clusters (default 0)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="build what is missing and start the cluster")
    up.add_argument(
        "--rung", type=int, choices=(1, 2, 3), default=3, help="1: API server alone; 2: with Kueue; 3: all, with pods"
    )
    commands.add_parser("down", help="end the cluster; nothing is left behind but caches")
    commands.add_parser("status", help="what runs, where the kubeconfig is, how to reach the ingress")
    only = commands.add_parser("build", help="build the programs")
    only.add_argument("projects", nargs="*", choices=[*PROJECTS, []], help="default: all")
    commands.add_parser("built", help="exit code 0 when the programs of a whole cluster are built, else 1")
    taken = commands.add_parser("load", help="bring the images of archives into the cluster")
    taken.add_argument("archives", nargs="+", type=Path)
    words = parser.parse_args()
    lab, began = Lab(words.number), time.monotonic()
    try:
        match words.command:
            case "build":
                build(*words.projects)
            case "up":
                bring_up(lab, rung=words.rung)
                print(f"The cluster is up after {time.monotonic() - began:.0f} s.\n{status(lab)}")
            case "load":
                for archive in words.archives:
                    print("\n".join(load(lab, archive)))
            case "built":
                return 0 if is_built() else 1
            case "down":
                bring_down(lab)
            case _:
                print(status(lab))
    except LabError as error:
        print(error, file=sys.stderr)
        if words.command == "up" and lab.kubeconfig.exists():
            print(diagnosis(lab), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
