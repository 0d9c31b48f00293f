"""Changed declarations change the generated files, and stale files are reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llmariner.manifests.__main__ import main
from llmariner.manifests.tree import generate_files, stale_files, write_files

Declare = Callable[..., None]


@pytest.fixture
def written(checkout: Path, function: Declare, consumer: Declare) -> Path:
    function("models", "GET /v1/models", timeout_seconds="3600")
    function("internal_gateway", "POST /internal/key", visibility="cluster-local")
    consumer("sweep", "ai.llmariner.platform.tick.v1")
    list(write_files(checkout))
    return checkout


def kinds(checkout: Path, name: str) -> list[str]:
    text = (checkout / "manifests/base" / name).read_text()
    return [body["kind"] for body in yaml.safe_load_all(text)]


def test_a_workload_has_one_file_with_all_its_objects(written: Path) -> None:
    assert kinds(written, "50-functions/models.yaml") == ["ServiceAccount", "Service", "HTTPRoute"]
    assert kinds(written, "50-functions/internal-gateway.yaml") == ["ServiceAccount", "Service"]
    assert kinds(written, "60-eventing/sweep.yaml") == ["ServiceAccount", "Service", "Trigger", "PingSource"]


def test_a_file_names_its_declaration(written: Path) -> None:
    text = (written / "manifests/base/50-functions/models.yaml").read_text()
    assert text.startswith("# Written from functions/models/func.yaml by `make manifests`.")


def test_the_longest_timeout_is_a_requirement_of_the_cluster(written: Path) -> None:
    body = yaml.safe_load((written / "manifests/prerequisites/config-defaults.yaml").read_text())
    assert body["data"] == {"max-revision-timeout-seconds": "3600"}


def test_writing_twice_changes_nothing(written: Path) -> None:
    assert list(stale_files(written)) == []
    assert list(write_files(written)) == []


def test_a_changed_declaration_makes_its_file_stale(written: Path, function: Declare) -> None:
    function("models", "GET /v1/models", timeout_seconds="3599")
    assert list(stale_files(written)) == [
        "manifests/prerequisites/config-defaults.yaml does not say what its declaration says",
        "manifests/base/50-functions/models.yaml does not say what its declaration says",
    ]


def test_an_edited_missing_or_orphaned_file_is_stale(written: Path) -> None:
    base = written / "manifests/base"
    (base / "40-broker.yaml").write_text("kind: Broker\n")
    (base / "20-settings.yaml").unlink()
    (base / "50-functions/batches.yaml").write_text("kind: Service\n")
    assert set(stale_files(written)) == {
        "manifests/base/40-broker.yaml does not say what its declaration says",
        "manifests/base/20-settings.yaml is missing",
        "manifests/base/50-functions/batches.yaml has no declaration any more",
    }


def test_writing_restores_stale_files_and_keeps_manual_ones(written: Path) -> None:
    overlay = written / "manifests/overlays/test/kustomization.yaml"
    before = overlay.read_text()
    (written / "manifests/base/40-broker.yaml").unlink()
    (written / "manifests/base/50-functions/batches.yaml").write_text("kind: Service\n")
    assert set(write_files(written)) == {"manifests/base/40-broker.yaml", "manifests/base/50-functions/batches.yaml"}
    assert list(stale_files(written)) == []
    assert overlay.read_text() == before


def test_check_names_each_stale_file_and_the_remedy(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--checkout", str(written)]) == 0
    (written / "manifests/base/40-broker.yaml").unlink()
    assert main(["--check", "--checkout", str(written)]) == 1
    reported = capsys.readouterr().err
    assert "manifests/base/40-broker.yaml is missing" in reported
    assert "make manifests" in reported
    assert not (written / "manifests/base/40-broker.yaml").exists()


def test_an_invalid_declaration_is_reported_without_a_traceback(
    written: Path, function: Declare, capsys: pytest.CaptureFixture[str]
) -> None:
    function("models", "v1/models")
    assert main(["--checkout", str(written)]) == 1
    assert "functions/models/func.yaml" in capsys.readouterr().err


def test_no_file_has_yaml_anchors(written: Path) -> None:
    assert not [name for name, text in generate_files(written).items() if "&id" in text]
