"""What the Dockerfile runs while it builds: resolve extras, install their packages, compile.

    python3 install.py tools                            uv and YAML for the steps below, into /tools
    python3 install.py declare                          which packages and folders $FUNCTION or $EXTRAS mean, into /declared
    python3 install.py packages GROUP                   one group of packages, into /layers/GROUP
    python3 install.py code                             our own package, into /layers/code
    python3 install.py functions                        the functions that were declared, into /layers/functions

Every package is one of locks/platform.lock, checked by its hashes. Run in the root of the build context by the base's own
interpreter: standard library only, until `tools` has run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

TOOLS, DECLARED, LAYERS = Path("/tools"), Path("/declared"), Path("/layers")
PACKAGES = Path("app/packages")
LOCK = Path("locks/platform.lock")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

# `bin`: commands of packages, which nobody calls; their first lines name this stage's interpreter.
# `kubernetes/aio`: a second client of 68 MB, for asyncio, that nothing imports by itself.
UNUSED = ("bin", "kubernetes/aio")

# Later groups stand on earlier ones: two images that agree on the first n groups share n layers.
GROUPS = ("core", "database", "cluster", "api", "others")

COMMAND = "#!{python}\nfrom llmariner.cli.main import main\n\nmain()\n"


def main() -> None:
    """One step. Exit status 1 and a line when an argument is wrong or a package cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("tools")
    steps.add_parser("declare")
    steps.add_parser("packages").add_argument("group", choices=GROUPS)
    steps.add_parser("code")
    steps.add_parser("functions")
    chosen = parser.parse_args()
    if chosen.step == "tools":
        install_tools()
    elif chosen.step == "declare":
        asked = (os.environ.get(name, "") for name in ("FUNCTION", "EXTRAS"))
        declare(*asked)
    elif chosen.step == "packages":
        install_packages(chosen.group)
    elif chosen.step == "code":
        install_code()
    else:
        install_functions()


def install_tools() -> None:
    """uv and PyYAML, by the base's pip."""
    wanted = Path("/tmp/tools.txt")  # a container of our own
    wanted.write_text(pinned_lines(LOCK.read_text(), ["uv", "pyyaml"]))
    run(sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--no-deps",
        *("--require-hashes", "--target", str(TOOLS), "-r", str(wanted)))  # fmt: skip


def declare(function: str, listed: str) -> None:
    """Write what the later steps read, so that they are run again only when it changes."""
    sys.path[:0] = [str(TOOLS), "shared"]
    if bool(function) == bool(listed):
        sys.exit("Name what to build: --build-arg FUNCTION=functions/<name> (or eventing/<name>), or EXTRAS=<extra>,…")
    function = function.rstrip("/")
    extras, folders = extras_and_folders(function) if function else (listed.split(","), [])
    DECLARED.mkdir(exist_ok=True)
    (DECLARED / "folders.json").write_text(json.dumps({"function": function, "folders": folders}))
    before: set[str] = set()
    lock = LOCK.read_text()
    for group in GROUPS:
        earlier = GROUPS[: GROUPS.index(group) + 1]
        included = [extra for extra in extras if group == "others" or extra in earlier]
        names = required_packages(included)
        (DECLARED / f"{group}.txt").write_text(pinned_lines(lock, sorted(names - before)))
        before |= names


def extras_and_folders(function: str) -> tuple[list[str], list[str]]:
    """The extras of a function, and the folders of all that have the same."""
    from llmariner.manifests.declarations import Workload, read_declarations

    functions, consumers = read_declarations(Path())
    workloads: list[Workload] = [*functions, *consumers]
    for each in workloads:
        if each.folder == function:
            return list(each.extras), [other.folder for other in workloads if other.extras == each.extras]
    sys.exit(f"FUNCTION={function} is none of {', '.join(each.folder for each in workloads)}.")


def required_packages(extras: Iterable[str]) -> set[str]:
    """Names of all packages that our distribution needs with these extras, at the lock's versions."""
    wanted = [part for extra in extras for part in ("--extra", extra)]
    found = run(
        *(
            str(TOOLS / "bin/uv"),
            "pip",
            "compile",
            "--quiet",
            "--python",
            sys.executable,
            "--no-header",
            "--no-annotate",
        ),
        *("--constraint", str(LOCK), *wanted, "pyproject.toml"),
    )
    names = {re.split(r"[=\[ ]", line)[0] for line in found.splitlines() if "==" in line}
    return names - {"llmariner-knative"}


def pinned_lines(lock: str, names: Iterable[str]) -> str:
    """The lines of a lock that pin these packages. Exits when one is not in it."""
    found = re.split(r"\n(?=\S)", lock.strip())
    chosen = []
    for name in names:
        pinned = [block for block in found if re.match(rf"{re.escape(name)}[=\[ ]", block)]
        if not pinned:
            sys.exit(f"{LOCK} does not pin {name}; run `make lock`.")
        chosen += pinned
    return "".join(f"{block}\n" for block in chosen)


def install_packages(group: str) -> None:
    """The packages of one group; an empty folder where the image has none of it."""
    target = LAYERS / group / PACKAGES
    target.mkdir(parents=True)
    listed = DECLARED / f"{group}.txt"
    if listed.read_text():
        run(
            *(str(TOOLS / "bin/uv"), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(target)),
            *("--no-deps", "--require-hashes", "--link-mode", "copy", "-r", str(listed)),
        )
        for unused in UNUSED:
            shutil.rmtree(target / unused, ignore_errors=True)
        (target / ".lock").unlink(missing_ok=True)
    compile_tree(target)


def install_code() -> None:
    """Our package."""
    target = LAYERS / "code" / PACKAGES
    shutil.copytree("shared/llmariner", target / "llmariner")
    compile_tree(target)


def install_functions() -> None:
    """The folders of the image's functions, and `function` as a name of the one asked for; or else our command."""
    said = json.loads((DECLARED / "folders.json").read_text())
    app = LAYERS / "functions/app"
    app.mkdir(parents=True)
    for folder in said["folders"]:
        shutil.copytree(folder, app / folder)
    if said["function"]:
        (app / "function").symlink_to(said["function"])
    else:
        command = LAYERS / "functions/usr/local/bin/llma"
        command.parent.mkdir(parents=True)
        command.write_text(COMMAND.format(python=sys.executable))
        command.chmod(0o755)
    compile_tree(app)


def compile_tree(folder: Path) -> None:
    """Bytecode that is taken whatever the time of its source: times are not kept by every registry and tool.

    Tracebacks name the path in the image.
    """
    layer = Path(*folder.parts[:3])
    run(sys.executable, "-m", "compileall", "-q", "-j", str(os.cpu_count()), "--invalidation-mode", "unchecked-hash",
        *("-s", str(layer), "-p", "/", str(folder)))  # fmt: skip


def environment() -> dict[str, str]:
    """Where installers find packages, and whom they trust: the system's authorities, as neither does by itself."""
    trusted = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), str(AUTHORITIES)) if AUTHORITIES.is_file() else {}
    index = os.environ.get("INDEX")
    mirror = dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), index) if index else {}
    return {**os.environ, **trusted, **mirror}


def run(*command: str) -> str:
    """A command's output; exits when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    main()
