"""`llma clusters kubeconfig` takes a cluster's id as it is, and asks the platform for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmariner.cli.support.errors import ExitCode
from llmariner.clusters.cluster import LOCAL_CLUSTER_ID, new_cluster_id, validate_name
from llmariner.errors import InvalidRequest

from .conftest import API_KEY, Llma

ABSENT = "https://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_BASE_URL", ABSENT)
    monkeypatch.setenv("LLMARINER_API_KEY", API_KEY)


@pytest.mark.parametrize("id_", [LOCAL_CLUSTER_ID, new_cluster_id()], ids=["local", "new"])
def test_an_id_needs_no_request_and_is_no_name(bare_llma: Llma, id_: str) -> None:
    with pytest.raises(InvalidRequest):
        validate_name(id_)
    result = bare_llma("clusters", "kubeconfig", id_)
    assert result.code == 0, result.err
    [cluster] = yaml.safe_load(result.out)["clusters"]
    assert cluster["cluster"]["server"] == f"{ABSENT}/sessions/{id_}"


@pytest.mark.parametrize("name", ["cluster-west", "cluster_west", "cluster-" + "W" * 22, f"{LOCAL_CLUSTER_ID}-2"])
def test_a_name_that_begins_as_an_id_is_looked_up(bare_llma: Llma, name: str) -> None:
    result = bare_llma("clusters", "kubeconfig", name)
    assert (result.code, result.out) == (ExitCode.UNREACHABLE, "")
