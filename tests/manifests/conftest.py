"""What every test of the manifests starts from: the upstream schemas, and a checkout in miniature."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kubernetes.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]


def _schemas_module() -> Any:
    """Loaded by its place: its folder bears the name of Kubernetes' Python client, which an import finds."""
    place = CHECKOUT / "tests/kubernetes/schemas.py"
    spec = importlib.util.spec_from_file_location("kubernetes_schemas", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def crds() -> Path:
    """The folder of upstream's CRDs."""
    place: Path | None = _schemas_module().folder(CHECKOUT)
    if place is None:
        pytest.skip("no upstream CRDs: set LLMARINER_CRDS to their folder")
    return place


@pytest.fixture(scope="session")
def schemas(crds: Path) -> Schemas:
    """The validator over them; one for the session, since it reads each schema once."""
    validator: Schemas = sys.modules["kubernetes_schemas"].Schemas(crds)
    return validator
