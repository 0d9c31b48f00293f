"""Upstream's schemas are part of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .schemas import CORE, Schemas, folder

_UNPACK = "import runpy, sys; print(runpy.run_path(sys.argv[1])['folder']())"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no folder named by the environment."""
    monkeypatch.delenv("LLMARINER_CRDS", raising=False)
    monkeypatch.setenv("LLMARINER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("serving.knative.dev/v1", "Service"),
        ("serving.kserve.io/v1beta1", "InferenceService"),
        ("eventing.knative.dev/v1", "Trigger"),
        ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("batch/v1", "Job"),
    ],
)
def test_an_empty_cache_is_filled_with_every_kind(cache: Path, version: str, kind: str) -> None:
    schemas = Schemas(folder())
    assert schemas.schema({"apiVersion": version, "kind": kind})["properties"]["spec"]


def test_several_processes_share_one_cache(cache: Path) -> None:
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", _UNPACK, Path(__file__).with_name("schemas.py")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    places = {process.communicate(timeout=120)[0].strip() for process in asked}
    assert [process.returncode for process in asked] == [0, 0, 0, 0]
    (place,) = places
    assert Path(place, CORE).is_file()
    assert [each.name for each in Path(place).parent.iterdir()] == [Path(place).name], "nothing half unpacked is left"


def test_a_configured_folder_takes_precedence(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_CRDS", str(tmp_path))
    assert folder() == tmp_path
    assert not cache.exists()
