"""Built images, and containers of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from images.build import PREFIX, store
from images.plan import CHECKOUT, image_specs, sources_digest
from images.store import Store

from .container import Container, mounted

Start = Callable[..., Container]


@pytest.fixture(scope="session")
def built() -> Store:
    """The store of this checkout's images; a skip that says what is missing."""
    for program in ("buildah", "runc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {program}")
    if os.geteuid() != 0:
        pytest.skip("images are built, and their containers run, by root")
    place = store()
    if not (place.folder / "storage.conf").is_file():
        pytest.skip("the images are not built: make images")
    if missing := [each.name for each in image_specs(CHECKOUT) if not place.has(PREFIX + each.name)]:
        pytest.skip(f"not built: {', '.join(missing)}; make images")
    if place.built_from != sources_digest():
        pytest.skip("the images were built from other files than these: make images")
    return place


@pytest.fixture(scope="session")
def container(built: Store) -> Iterator[Start]:
    """Makes a container of an image: `container(name, environment, binds)`. An image's root is mounted once."""
    roots: dict[str, Path] = {}
    with ExitStack() as stack:

        def make(
            name: str, environment: Mapping[str, str] | None = None, binds: Mapping[Path, str] | None = None
        ) -> Container:
            if name not in roots:
                roots[name] = stack.enter_context(mounted(built, PREFIX + name))
            inspected = json.loads(built.run("inspect", "--type", "image", PREFIX + name))
            return Container(roots[name], inspected["OCIv1"]["config"], environment or {}, binds or {})

        yield make
