"""Every built image: small, bare, compiled, and serving as the manifests run it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from images.build import PREFIX
from images.plan import CHECKOUT, TOOLS, ImageSpec, image_specs, sources_digest
from images.store import Store

from llmariner import __version__

from .conftest import Start

pytestmark = pytest.mark.images

IMAGES = image_specs(CHECKOUT)

# Megabytes that an image may weigh, unpacked: the base with our package, and what each extra adds. A tenth of room.
BUDGET = {"": 105, "api": 42, "database": 60, "functions": 18, "identity": 20, "cluster": 90, "cli": 25}
BUDGET |= {"forms": 5, "objects": 45, "documents": 50, "vectors": 200, "gguf": 70, "tunnel": 8}

FORBIDDEN = {
    *("pip", "pip3", "uv", "ensurepip", "setuptools", "wheel", "gcc", "cc", "g++", "make", "ld", "as"),
    *("sh", "dash", "bash", "apt", "apt-get", "dpkg", "perl"),
}

ENVIRONMENT = {
    "HOST": "127.0.0.1",
    "LLMARINER_DATABASE_URL": "sqlite:////tmp/none.db",
    "LLMARINER_PEPPER": "0123456789abcdef" * 4,
    "LLMARINER_SERVICE_SECRET": "fedcba9876543210" * 4,
    "LLMARINER_SERVING": "static",
    "LLMARINER_SERVING_STATIC": "{}",
    "LLMARINER_CONTROL_URL": "http://127.0.0.1:9",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("image", "folder"),
    [(each, folder) for each in IMAGES for folder in each.folders],
    ids=lambda each: getattr(each, "name", each),
)
def test_every_function_responds_to_health_checks(
    image: ImageSpec, folder: str, container: Start, tmp_path: Path
) -> None:
    port = free_port()
    made = container(image.name, {**ENVIRONMENT, "PORT": str(port)})
    with made.running(["python", "-m", "llmariner.boot", folder], tmp_path) as server:
        server.wait(f"http://127.0.0.1:{port}/health/live", 20)
        status = Path(f"/proc/{server.pid_file.read_text()}/status").read_text()
    assert "Uid:\t65532\t65532\t65532\t65532" in status
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.parametrize("image", [each for each in IMAGES if each.folders], ids=lambda each: each.name)
def test_an_image_serves_its_function_without_a_command(image: ImageSpec, container: Start, tmp_path: Path) -> None:
    port = free_port()
    with container(image.name, {**ENVIRONMENT, "PORT": str(port)}).running([], tmp_path) as server:
        server.wait(f"http://127.0.0.1:{port}/health/live", 20)


@pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.name)
def test_an_image_holds_no_installer_compiler_or_shell(image: ImageSpec, container: Start) -> None:
    root = container(image.name).root
    places = (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "usr/local/bin",
        "app/packages",
        "usr/lib/python3.11",
        "usr/lib/python3/*",
    )
    names = {
        path.name.removesuffix(".py") for place in places for folder in root.glob(place) for path in folder.iterdir()
    }
    assert "python" in names
    assert not names & FORBIDDEN
    assert not list(root.rglob("*.whl"))


@pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.name)
def test_all_code_is_compiled_regardless_of_its_timestamp(image: ImageSpec, container: Start) -> None:
    root = container(image.name).root
    sources = [path for path in (root / "app").rglob("*.py") if "migrations" not in path.parts]
    assert sources
    for source in (*sources, root / "usr/lib/python3.11/asyncio/__init__.py"):
        compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", source


@pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.name)
def test_an_image_has_the_libraries_that_its_packages_load(image: ImageSpec, container: Start, tmp_path: Path) -> None:
    program = (
        "import ctypes, pathlib\n"
        "for each in sorted(pathlib.Path('/app/packages').rglob('*.so*')):\n"
        "    try: ctypes.CDLL(str(each))\n"
        "    except OSError as error: print(each, error)"
    )
    said = container(image.name).run(["python", "-c", program], tmp_path)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr


@pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.name)
def test_an_image_is_within_its_size_budget(image: ImageSpec, built: Store) -> None:
    weight = built.image(PREFIX + image.name).size / 1e6
    assert weight < BUDGET[""] + sum(BUDGET[extra] for extra in image.extras), f"{weight:.0f} MB"


def test_images_share_common_layers(built: Store) -> None:
    chains = [built.image(PREFIX + each.name).layers for each in IMAGES]
    weight = sum(size for chain in chains for _, size in chain)
    once = sum(size for _, size in {layer for chain in chains for layer in chain})
    assert once < weight / 2.5


def test_the_tools_image_migrates_a_database_and_has_the_command(container: Start, tmp_path: Path) -> None:
    tools = container(TOOLS, ENVIRONMENT)
    said = tools.run(["llma", "version"], tmp_path)
    assert __version__ in said.stdout, said
    program = (
        "from llmariner.context import Context; from llmariner.platform.database.migrate import current, head, upgrade;"
        "database = Context().database; upgrade(database); assert current(database) == head(), current(database)"
    )
    migrated = tools.run(["python", "-c", program], tmp_path)
    assert migrated.returncode == 0, migrated.stderr


@pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.name)
def test_an_image_runs_the_compiled_token_path(image: ImageSpec, container: Start, tmp_path: Path) -> None:
    program = "from llmariner.compiled import is_active; print(is_active())"
    said = container(image.name, ENVIRONMENT).run(["python", "-c", program], tmp_path)
    assert said.stdout.split() == ["True"], said.stderr


def test_the_root_filesystem_is_read_only(container: Start, tmp_path: Path) -> None:
    tried = container(TOOLS).run(["python", "-c", "open('/app/packages/new.py', 'w')"], tmp_path)
    assert "Read-only file system" in tried.stderr


def test_images_of_changed_files_are_detected(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    for name in ("Dockerfile", "pyproject.toml", "shared/code.py"):
        (tmp_path / name).write_text("one")
    digests = [sources_digest(tmp_path)]
    for name, text in (
        ("shared/code.py", "two"),
        ("shared/added.py", ""),
        ("shared/__pycache__", "x"),
        ("docs.md", "x"),
    ):
        (tmp_path / name).write_text(text)
        digests.append(sources_digest(tmp_path))
    assert len(set(digests)) == 3
    assert digests[2:] == digests[2:3] * 3
    store = Store(tmp_path)
    assert store.built_from == ""
    store.built_from = digests[0]
    assert Store(tmp_path).built_from == digests[0]
