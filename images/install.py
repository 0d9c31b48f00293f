"""Build steps of the Dockerfile: resolve extras, install their packages, compile.

    python3 install.py tools                            uv and YAML for the steps below, into /tools
    python3 install.py declare                          packages and folders of $FUNCTION or $EXTRAS, into /declared
    python3 install.py packages GROUP                   one group of packages, into /layers/GROUP
    python3 install.py code                             the package llmariner, into /layers/code
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
from collections.abc import Iterable, Mapping
from pathlib import Path

TOOLS, DECLARED, LAYERS = Path("/tools"), Path("/declared"), Path("/layers")
PACKAGES = Path("app/packages")
LOCK = Path("locks/platform.lock")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

# `bin`: unused console scripts, whose shebangs name the builder's interpreter.
# `kubernetes/aio`: an unused asyncio client of 68 MB.
UNUSED = ("bin", "kubernetes/aio")

# In the order of layers: two images with the same first n groups share n layers.
GROUPS = ("core", "database", "cluster", "api", "others")

COMMAND = "#!{python}\nfrom llmariner.cli.main import main\n\nmain()\n"


def main() -> None:
    """Run one step. Exits with status 1 and a message if an argument is wrong or a package is unavailable."""
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
    """Install uv and PyYAML with the base image's pip."""
    wanted = Path("/tmp/tools.txt")  # this container runs nothing else
    wanted.write_text(pinned_lines(LOCK.read_text(), ["uv", "pyyaml"]))
    run(sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--no-deps",
        *("--require-hashes", "--target", str(TOOLS), "-r", str(wanted)))  # fmt: skip


def declare(function: str, listed: str) -> None:
    """Write the input of later steps, whose layers are cached while it is unchanged."""
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
    """The extras of a function, and the folders of all functions with the same extras."""
    from llmariner.manifests.declarations import Workload, read_declarations

    functions, consumers = read_declarations(Path())
    workloads: list[Workload] = [*functions, *consumers]
    for each in workloads:
        if each.folder == function:
            return list(each.extras), [other.folder for other in workloads if other.extras == each.extras]
    sys.exit(f"FUNCTION={function} is none of {', '.join(each.folder for each in workloads)}.")


def required_packages(extras: Iterable[str]) -> set[str]:
    """Names of all packages that llmariner requires with these extras, at the lock's versions."""
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
    """The lines of a lock that pin these packages. Exits with status 1 if one is missing."""
    found = re.split(r"\n(?=\S)", lock.strip())
    chosen = []
    for name in names:
        pinned = [block for block in found if re.match(rf"{re.escape(name)}[=\[ ]", block)]
        if not pinned:
            sys.exit(f"{LOCK} does not pin {name}; run `make lock`.")
        chosen += pinned
    return "".join(f"{block}\n" for block in chosen)


def install_packages(group: str) -> None:
    """Install the packages of one group; the folder stays empty if the image needs none."""
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
    """Copy and compile the package llmariner."""
    target = LAYERS / "code" / PACKAGES
    shutil.copytree("shared/llmariner", target / "llmariner")
    compile_token_path(target)
    compile_tree(target)


def compile_token_path(target: Path) -> None:
    """Put the machine code of the token path beside its sources. A builder without a C compiler leaves the sources."""
    if shutil.which("gcc") is None:
        print(
            "The builder has no gcc: the token path is interpreted, and a request costs half as much again.",
            file=sys.stderr,
        )
        return
    compiler, wanted, result = Path("/tmp/compiler"), Path("/tmp/compiler.txt"), Path("/tmp/compiled")
    names = required_packages(["compile"]) - required_packages([])
    wanted.write_text(pinned_lines(LOCK.read_text(), sorted(names)))
    run(
        *(str(TOOLS / "bin/uv"), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(compiler)),
        *("--no-deps", "--require-hashes", "--link-mode", "copy", "-r", str(wanted)),
    )
    build = "from llmariner.compiled.build import main; main()"
    # Bytecode comes later, with the rest of the package.
    paths = {"PYTHONPATH": os.pathsep.join((str(target), str(compiler))), "PYTHONDONTWRITEBYTECODE": "1"}
    run(sys.executable, "-c", build, "--into", str(result), variables=paths)
    shutil.copytree(result, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("files.txt"))


def install_functions() -> None:
    """Copy the image's functions, with a link `function` to the requested one; without functions install `llma`."""
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
    """Compile to bytecode that ignores the sources' modification times, which not every registry and tool keeps.

    Tracebacks show the path in the image.
    """
    layer = Path(*folder.parts[:3])
    run(sys.executable, "-m", "compileall", "-q", "-j", str(os.cpu_count()), "--invalidation-mode", "unchecked-hash",
        *("-s", str(layer), "-p", "/", str(folder)))  # fmt: skip


def environment() -> dict[str, str]:
    """Environment of installers: the package index, and the system's certificate authorities."""
    trusted = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE"), str(AUTHORITIES)) if AUTHORITIES.is_file() else {}
    index = os.environ.get("INDEX")
    mirror = dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), index) if index else {}
    return {**os.environ, **trusted, **mirror}


def run(*command: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a command, with more variables, and return its output; exits with status 1 if it fails."""
    env = {**environment(), **(variables or {})}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}.")
    return done.stdout


if __name__ == "__main__":
    main()
