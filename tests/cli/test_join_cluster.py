"""`llma admin clusters join` prints a manifest that kubectl applies, and nothing else, to stdout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from .cluster_cases import CLUSTERS, WEST
from .conftest import FakePlatform, Llma

JOINED = {**WEST, "registration_key": "clusterkey-abc"}


def test_the_manifest_has_the_key_and_the_way_to_the_control_plane(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /clusters", JOINED)
    url = "https://llm.example.org/v1"
    line = ("admin", "clusters", "join", "gpu-west", "--control-plane", url, "--proxy", "http://proxy:3128")
    result = llma(*line, "--sessions-only")
    assert result.code == 0, result.err
    objects = {each["kind"]: each for each in yaml.safe_load_all(result.out)}
    assert objects["Secret"]["stringData"] == {"registration-key": "clusterkey-abc"}
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["LLMARINER_AGENT_CONTROL_PLANE"] == "https://llm.example.org"
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert "Role" not in objects
    assert "llmariner:control-plane" not in result.out
    assert "cluster-1" in result.err


def test_a_cluster_gets_namespaces_for_work_and_rights_in_them(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("POST /clusters", JOINED)
    result = llma("admin", "clusters", "join", "gpu-west", "--control-plane", "https://llm.example.org/v1")
    objects = list(yaml.safe_load_all(result.out))
    named = {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in objects}
    assert len(named) == len(objects)
    for namespace in ("llmariner-jobs", "llmariner-models"):
        assert ("Namespace", "", namespace) in named
        assert named["RoleBinding", namespace, "llmariner-control-plane"]["subjects"][0]["kind"] == "User"
    impersonation, _ = named["ClusterRole", "", "llmariner-control-plane"]["rules"]
    assert impersonation["resourceNames"] == ["llmariner:control-plane"]
    [account] = named["ClusterRoleBinding", "", "llmariner-control-plane"]["subjects"]
    assert (account["kind"], account["namespace"], account["name"]) == ("ServiceAccount",) + ("llmariner-agent",) * 2


def test_jobs_trust_the_authority_that_the_agent_trusts(llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    platform.respond("POST /clusters", JOINED)
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=ca",
    ]
    files = ["-keyout", str(tmp_path / "ca.key"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run([*made, *files], check=True, capture_output=True)
    line = ("admin", "clusters", "join", "gpu-west", "--control-plane", "https://llm.example.org")
    result = llma(*line, "--ca-file", str(tmp_path / "ca.pem"))
    (trusted,) = [
        each["data"]
        for each in yaml.safe_load_all(result.out)
        if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", "llmariner-control-plane")
    ]
    assert trusted == {"ca.crt": (tmp_path / "ca.pem").read_text()}


def test_a_cluster_is_shown_of_the_list(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /clusters", CLUSTERS)
    result = llma("admin", "clusters", "get", "gpu-west")
    for words in ("cluster-1", "3 of 16 allocated", "1.5 of 64", "v1.34.4", "clusterkey-abcd…yz", "2025-10-09"):
        assert words in result.out
    assert llma("admin", "clusters", "get", "cluster-1", "--output", "json").json == WEST


def test_a_cluster_that_is_registered_gets_a_new_key(llma: Llma, platform: FakePlatform) -> None:
    platform.respond("GET /clusters", CLUSTERS)
    platform.respond("POST /clusters/cluster-1:rotateKey", JOINED)
    line = ("admin", "clusters", "join", "gpu-west", "--rotate", "--gpu-operator-namespace", "nvidia")
    result = llma(*line, "--control-plane", "http://10.0.0.1", "--plain-http")
    assert result.code == 0, result.err
    kinds = [each["kind"] for each in yaml.safe_load_all(result.out)]
    assert kinds.count("Role") == kinds.count("RoleBinding") == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--control-plane", "http://llm.example.org"), "--plain-http"),
        (("--control-plane", "ftp://llm.example.org"), "https://"),
        (("--control-plane", "https://llm.example.org", "--gpu-operator-namespace", "A b"), "namespace"),
    ],
)
def test_nothing_is_registered_for_a_wrong_option(
    options: tuple[str, ...], words: str, llma: Llma, platform: FakePlatform
) -> None:
    platform.respond("POST /clusters", JOINED)
    result = llma("admin", "clusters", "join", "gpu-west", *options)
    assert result.code == 2
    assert words in result.err
    assert result.out == ""


def test_a_file_that_holds_no_certificates_is_refused(llma: Llma, platform: FakePlatform, tmp_path: Path) -> None:
    platform.respond("POST /clusters", JOINED)
    (tmp_path / "ca.pem").write_text("no certificate")
    url = "https://llm.example.org"
    result = llma("admin", "clusters", "join", "x", "--control-plane", url, "--ca-file", str(tmp_path / "ca.pem"))
    assert result.code == 2
    assert result.out == ""
