"""`python -m images.build`: build every image with buildah, print its size, write archives.

The images have the names of manifests/components/local-images. Their store is a separate folder below the user's cache;
steps with unchanged input are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

from images import base
from images.plan import CHECKOUT, ENGINE, ENGINE_LOCAL, NOTEBOOK, image_specs, sources_digest
from images.store import Image, PrerequisiteMissing, Store

from llmariner.manifests.declarations import DeclarationError
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock

__all__ = ["PREFIX", "main", "store"]

PREFIX = "dev.local/"
"""Knative does not resolve tags of this registry to digests, which needs access to the registry."""

_MB = 1_000_000


def store() -> Store:
    """The store for the current lock file."""
    pins = (CHECKOUT / "locks/platform.lock").read_bytes()
    return Store(_cache() / f"images-{hashlib.sha256(pins).hexdigest()[:16]}")


def _cache() -> Path:
    return StandaloneSettings.load(environment()).cache


def main(arguments: list[str] | None = None) -> int:
    """Returns exit status 0, or 1 with the reason and the remedy on standard error."""
    parser = argparse.ArgumentParser(prog="python -m images.build", description=__doc__)
    parser.add_argument("--base", help="image to build on (default: one made here of Debian packages)")
    parser.add_argument("--builder", help="image with pip to build in (default: --base, or one made here)")
    parser.add_argument(
        "--engine-base", help="image with vLLM for the engine image (default: this machine's own, local)"
    )
    parser.add_argument("--notebook", action="store_true", help="build the image of notebooks, too (0.5 GB)")
    parser.add_argument(
        "--archives", type=Path, metavar="DIR", help="write functions.tar, engine.tar and notebook.tar there"
    )
    chosen = parser.parse_args(arguments)
    try:
        _build(store(), chosen)
    except (PrerequisiteMissing, DeclarationError) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[0]} failed with status {error.returncode}; its own words stand above.", file=sys.stderr)
        return 1
    return 0


def _build(image_store: Store, chosen: argparse.Namespace) -> None:
    began = time.monotonic()
    image_store.prepare()
    image_store.built_from = ""
    sources = sources_digest()
    plan = image_specs()
    runtime, builder = _bases(image_store, chosen.base, chosen.builder)
    mirror = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL") or ""
    for each in plan:
        arguments = {"BASE": runtime, "BUILDER": builder, "INDEX": mirror, **each.arguments}
        image_store.build(PREFIX + each.name, CHECKOUT / "Dockerfile", CHECKOUT, arguments)
    engines = _engines(image_store, chosen.engine_base)
    notebooks = [_notebook(image_store, chosen, builder, mirror)] if chosen.notebook else []
    image_store.built_from = sources
    functions = [PREFIX + each.name for each in plan]
    print(_table([image_store.image(name) for name in (*functions, *engines, *notebooks)]))
    print(f"built in {time.monotonic() - began:.0f} s; store: {image_store.folder}")
    if chosen.archives:
        chosen.archives.mkdir(parents=True, exist_ok=True)
        for name, images in (("functions", functions), ("engine", engines), ("notebook", notebooks)):
            if not images:
                continue
            target = chosen.archives / f"{name}.tar"
            image_store.archive(images, target)
            print(f"{target}: {target.stat().st_size / _MB:.0f} MB; load it with: ctr -n k8s.io images import {target}")


def _bases(image_store: Store, chosen: str | None, builder: str | None) -> tuple[str, str]:
    if chosen:
        return chosen, builder or chosen
    base.build_base(base.RUNTIME, image_store)
    base.build_base(base.BUILDER, image_store)
    return base.RUNTIME.tag, builder or base.BUILDER.tag


def _engines(image_store: Store, vllm: str | None) -> list[str]:
    """Build the engine image, on an image of this machine's engine environment unless `vllm` names another."""
    built, arguments = [], {}
    if vllm is None:
        arguments["PEFT"] = ""  # the environment has it
        base.build_base(base.ENGINE, image_store)
        folder = CHECKOUT / "images/engine-local"
        vllm = PREFIX + ENGINE_LOCAL
        engine = EngineEnvironment(_cache(), engine_lock()).folder
        # Buildah takes a cached ENV whatever the values of its arguments; this image has no other steps.
        image_store.build(
            vllm, folder / "Dockerfile", folder, {"BASE": base.ENGINE.tag, "ENGINE": str(engine)}, uncached=True
        )
        built.append(vllm)
    image_store.build(PREFIX + ENGINE, CHECKOUT / "images/engine/Dockerfile", CHECKOUT, {"BASE": vllm, **arguments})
    return [*built, PREFIX + ENGINE]


def _notebook(image_store: Store, chosen: argparse.Namespace, builder: str, mirror: str) -> str:
    """Build the image of notebooks, on `--base` if that is given, which has bash and what people use beside it."""
    if not chosen.base:
        base.build_base(base.NOTEBOOK, image_store)
    arguments = {"BASE": chosen.base or base.NOTEBOOK.tag, "BUILDER": builder, "INDEX": mirror}
    image_store.build(PREFIX + NOTEBOOK, CHECKOUT / "images/notebook/Dockerfile", CHECKOUT, arguments)
    return PREFIX + NOTEBOOK


def _table(images: list[Image]) -> str:
    """A table of images: total size, and size of layers that no other image has."""
    holders: dict[str, int] = {}
    for image in images:
        for digest in {digest for digest, _ in image.layers}:
            holders[digest] = holders.get(digest, 0) + 1
    lines = [f"{'image':<58}{'MB':>7}{'unique':>8}"]
    for image in images:
        alone = sum(size for digest, size in image.layers if holders[digest] == 1)
        lines.append(f"{image.name:<58}{image.size / _MB:>7.1f}{alone / _MB:>8.1f}")
    stored = {digest: size for image in images for digest, size in image.layers}
    lines.append(f"{'all of them, each layer once':<58}{sum(stored.values()) / _MB:>7.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
