"""`llma cluster check` on a healthy cluster, and on the same cluster with one fault at a time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.diagnostics.api_resources import DEPENDENCIES
from llmariner.diagnostics.checks import check_names
from llmariner.diagnostics.installation import SECRET_KEYS
from llmariner.diagnostics.knative import FEATURE_FLAGS, MAX_REQUEST_SECONDS
from llmariner.diagnostics.models import ACCELERATOR_RESOURCES, DEFAULT_RUNTIMES
from llmariner.installation import secrets

if TYPE_CHECKING:
    from cli.conftest import Llma, Result
    from cli.fake_cluster import FakeCluster

_fake_cluster = importlib.import_module(".fake_cluster", __package__)
_faults = importlib.import_module(".cluster_faults", __package__)
CHECKOUT: Path = _fake_cluster.CHECKOUT
FAULTS = _faults.FAULTS

Check = Callable[..., "Result"]
PLATFORM, SERVICE = "llmariner", "Service.serving.knative.dev"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeCluster]:
    """One for all tests of this file."""
    made: FakeCluster = _fake_cluster.FakeCluster()
    with made.server:
        yield made


@pytest.fixture
def healthy_cluster(server: FakeCluster) -> FakeCluster:
    """All is well on it."""
    server.reset()
    return server


@pytest.fixture
def check(bare_llma: Llma, server: FakeCluster, tmp_path: Path) -> Check:
    """Runs `llma cluster check` against it."""
    kubeconfig = server.server.kubeconfig(tmp_path / "kubeconfig")
    return lambda *words: bare_llma("cluster", "check", "--kubeconfig", str(kubeconfig), *words)


def unhealthy(result: Result) -> list[dict[str, str]]:
    """What a check found amiss; `result` is of `-o json`."""
    return [each for each in result.json["checks"] if each["result"] in ("failed", "unknown")]


def test_a_healthy_cluster_passes(healthy_cluster: FakeCluster, check: Check) -> None:
    result = check("-o", "json")
    assert (unhealthy(result), result.code, result.err) == ([], 0, "")
    assert {each["mend"] for each in result.json["checks"] if each["result"] == "ok"} == {""}
    assert len(result.json["checks"]) > 35
    others = {f"namespace {name}" for name in (PLATFORM, f"{PLATFORM}-models", _faults.GATEWAY.partition("/")[0])}
    others |= {project.name for project in DEPENDENCIES}
    others |= {f"{project.name} controllers" for project in DEPENDENCIES}
    assert {each["check"] for each in result.json["checks"]} - others - set(check_names()) == set()
    assert yaml.safe_load(check("-o", "yaml").out) == result.json


def test_the_table_has_one_line_per_check_and_remedies_below(healthy_cluster: FakeCluster, check: Check) -> None:
    healthy_cluster.delete("ConfigMap", "knative-serving/config-defaults")
    result = check()
    table, mend, *_ = result.out.split("\n\n")
    assert table.splitlines()[0].split() == ["CHECK", "RESULT", "DETAIL"]
    (line,) = [line for line in table.splitlines() if "failed" in line]
    assert line.startswith("longest request")
    assert mend.splitlines()[0] == "To mend:"
    assert "max-revision-timeout-seconds" in mend
    assert result.code == 1
    assert result.err.startswith("Error: not as it should be: longest request.\nNext: ")


def test_a_prepared_cluster_passes_before_the_installation(server: FakeCluster, check: Check) -> None:
    server.populate(overlay="")
    result = check("--prerequisites", "-o", "json")
    assert (unhealthy(result), result.code) == ([], 0)
    (missing,) = unhealthy(check("-o", "json"))
    assert missing["check"] == "installation"
    assert "kubectl apply -k" in missing["mend"]


def test_an_empty_cluster_reports_each_missing_part_once(server: FakeCluster, check: Check) -> None:
    server.clear(without=lambda kind: kind.custom)
    result = check("-o", "json")
    lacking = [each["check"] for each in unhealthy(result)]
    required = [project.name for project in DEPENDENCIES if not project.purpose]
    assert lacking == [*required, "nodes", "installation"]
    assert all(each["mend"] for each in unhealthy(result))
    assert result.code == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_reported_with_its_remedy(fault: str, healthy_cluster: FakeCluster, check: Check) -> None:
    make, name, said, mend = FAULTS[fault]
    make(healthy_cluster)
    result = check("-o", "json")
    found = unhealthy(result)
    about = next((each for each in found if each["check"] == name and said in each["detail"]), None)
    assert about is not None, found
    assert mend in about["mend"]
    assert all(each["mend"] for each in found)
    assert result.code == 1
    # What follows from it may be named, too; what doesn't may not.
    assert len(found) <= 2


@pytest.mark.parametrize("project", DEPENDENCIES, ids=lambda project: project.name)
def test_a_missing_project_is_named(project: Any, server: FakeCluster, check: Check) -> None:
    groups = {version.partition("/")[0] for version in project.kinds}
    server.populate(without=lambda kind: kind.group in groups and kind.name in sum(project.kinds.values(), ()))
    found = {each["check"]: each for each in check("-o", "json").json["checks"]}[project.name]
    needed = not project.purpose or project.name == "Kueue"  # the installation names a queue
    assert found["result"] == ("failed" if needed else "optional")
    assert project.guide in found["mend"]


def test_an_outdated_version_is_reported(server: FakeCluster, check: Check) -> None:
    server.populate(without=lambda kind: kind.group == "kueue.x-k8s.io" and kind.version == "v1beta2")
    (kueue,) = [each for each in unhealthy(check("-o", "json")) if each["check"] == "Kueue"]
    assert kueue["detail"] == "kueue.x-k8s.io is there at v1beta1, not at v1beta2"


def test_a_missing_kind_of_a_project_is_reported(server: FakeCluster, check: Check) -> None:
    server.populate(without=lambda kind: kind.name == "PingSource")
    (eventing,) = [each for each in unhealthy(check("-o", "json")) if each["check"] == "Knative Eventing"]
    assert eventing["detail"] == "sources.knative.dev/v1 lacks PingSource"


def test_deleted_jobs_are_judged_by_their_results(healthy_cluster: FakeCluster, check: Check) -> None:
    for job in ("secrets-0-4-0", "migrations-0-4-0"):
        healthy_cluster.delete("Job", f"{PLATFORM}/{job}")
    assert check().code == 0
    healthy_cluster.set_status(
        SERVICE, f"{PLATFORM}/models", _fake_cluster.conditions_status("Ready", status="Unknown")
    )
    assert [each["check"] for each in unhealthy(check("-o", "json"))] == ["migrations job", "functions"]


def test_routes_of_other_projects_are_ignored(healthy_cluster: FakeCluster, check: Check) -> None:
    metadata = {"name": "of-an-ingress", "namespace": PLATFORM}
    parents = [{"name": "knative-local", "namespace": "elsewhere"}]
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    healthy_cluster.create({**kind, "metadata": metadata, "spec": {"parentRefs": parents}})
    assert check().code == 0


def test_an_available_accelerator_is_counted(healthy_cluster: FakeCluster, check: Check) -> None:
    _faults.with_setting(f"{PLATFORM}/llmariner-settings", "LLMARINER_ACCELERATOR", "nvidia")(healthy_cluster)
    healthy_cluster.modify(
        "Node", "node-1", lambda old: old["allocatable"].update({"nvidia.com/gpu": "8"}), status=True
    )
    found = {each["check"]: each for each in check("-o", "json").json["checks"]}
    assert found["accelerators"] | {"detail": ""} == {"check": "accelerators", "result": "ok", "detail": "", "mend": ""}
    assert found["accelerators"]["detail"] == "8 nvidia.com/gpu"
    assert found["runtimes"]["detail"] == "there is no ClusterServingRuntime vllm-nvidia"


def test_the_administrators_key_is_mentioned_without_its_value(healthy_cluster: FakeCluster, check: Check) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llmariner-admin-key", "namespace": PLATFORM}}
    healthy_cluster.create({**secret, "data": {"key": "c2stc2VjcmV0"}})
    result = check()
    assert "delete secret llmariner-admin-key" in result.out
    assert "c2stc2VjcmV0" not in result.out
    assert result.code == 0


def test_a_missing_permission_is_reported_and_other_checks_run(healthy_cluster: FakeCluster, check: Check) -> None:
    healthy_cluster.server.forbid("list secrets", "list nodes")
    result = check("-o", "json")
    found = {each["check"]: each for each in unhealthy(result)}
    assert set(found) == {"nodes", "secrets"}
    assert found["secrets"]["result"] == "unknown"
    assert "cannot list resource 'secrets'" in found["secrets"]["detail"]
    assert "kubectl auth can-i list secrets -n llmariner" in found["secrets"]["mend"]
    assert result.code == 1


def test_a_permission_shared_by_many_checks_is_queried_once(healthy_cluster: FakeCluster, check: Check) -> None:
    healthy_cluster.server.forbid("list configmaps", "list services")
    mends = check().out.split("To mend:\n")[1].splitlines()
    (line,) = [line for line in mends if "-n knative-serving" in line]
    assert line.startswith("  longest request, feature flags, scale to zero, ingress class: Ask for the right to list ")
    # Knative's Services, not Kubernetes'.
    assert any("kubectl auth can-i list services.serving.knative.dev -n llmariner" in line for line in mends)


def test_the_settings_need_a_permission(healthy_cluster: FakeCluster, check: Check) -> None:
    healthy_cluster.server.forbid("get configmaps")
    result = check("-o", "json")
    assert {"settings", "KServe deployment mode"} <= {each["check"] for each in unhealthy(result)}
    assert result.code == 1


def test_another_namespace_is_checked(healthy_cluster: FakeCluster, check: Check) -> None:
    (missing,) = unhealthy(check("-n", "elsewhere", "-o", "json"))
    assert "no ConfigMap llmariner-settings in elsewhere" in missing["detail"]
    refused = check("-n", "No Namespace")
    assert (refused.code, refused.out) == (2, "")
    assert "must be the name of a namespace" in refused.err


def test_expected_settings_and_kinds_match_the_manifests() -> None:
    prerequisites = CHECKOUT / "manifests/prerequisites"
    defaults = yaml.safe_load((prerequisites / "config-defaults.yaml").read_text())["data"]
    assert defaults == {"max-revision-timeout-seconds": str(MAX_REQUEST_SECONDS)}
    features = yaml.safe_load((prerequisites / "config-features.yaml").read_text())["data"]
    assert features == dict.fromkeys(FEATURE_FLAGS, "enabled")
    known = {(version, kind) for project in DEPENDENCIES for version, kinds in project.kinds.items() for kind in kinds}
    for overlay in ("playground", "production", "test"):
        custom = {(o["apiVersion"], o["kind"]) for o in _fake_cluster.rendered(overlay) if "." in o["apiVersion"]}
        assert {each for each in custom if not each[0].partition("/")[0].endswith(".k8s.io")} - known == set()
        assert {each for each in custom if each[0].startswith(("kueue", "gateway"))} - known == set()


def test_hardware_has_the_names_of_pools_and_runtimes() -> None:
    for hardware, device in ACCELERATOR_RESOURCES.items():
        pool = (CHECKOUT / f"manifests/components/kueue/{hardware}/pool.yaml").read_text()
        assert device in pool
    for hardware, runtime in DEFAULT_RUNTIMES.items():
        assert (CHECKOUT / f"kserve/{hardware}/{runtime}.yaml").is_file()


def test_the_expected_secrets_are_those_of_the_job() -> None:
    documentation = secrets.__doc__ or ""
    made = {line.split()[0] for line in documentation.splitlines() if line.startswith("llmariner-")}
    # The first is to be deleted once it is read, the other there only with Dex.
    assert set(SECRET_KEYS) == made - {"llmariner-admin-key", "llmariner-dex"}
