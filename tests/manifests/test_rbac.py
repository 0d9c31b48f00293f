"""Kubernetes roles: only declared ones exist, and they are limited to the models' namespace and to ClusterQueues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmariner.manifests.declarations import DeclarationError, read_declarations
from llmariner.platform.kube.resources import resource_for

from .kustomize import Object, Rendered, names

Declare = Callable[..., None]
CHECKOUT = Path(__file__).parents[2]
RBAC = "rbac.authorization.k8s.io"
MODELS, JOBS = "llmariner-models", "llmariner-jobs"


@pytest.fixture(scope="module", params=["playground", "production", "test"])
def installed(request: pytest.FixtureRequest) -> Rendered:
    return Rendered(CHECKOUT / "manifests/overlays" / request.param)


def rules(rendered: Rendered, account: str) -> dict[tuple[str, str], set[str]]:
    """(namespace or "" for the cluster, group/resource) → verbs that the account has."""
    roles = {
        (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o["rules"]
        for kind in ("Role", "ClusterRole")
        for o in rendered.objects_of(RBAC, kind)
    }
    found: dict[tuple[str, str], set[str]] = {}
    for binding in [*rendered.objects_of(RBAC, "RoleBinding"), *rendered.objects_of(RBAC, "ClusterRoleBinding")]:
        if account not in {each["name"] for each in binding["subjects"]}:
            continue
        place = binding["metadata"].get("namespace", "")
        for rule in roles[binding["roleRef"]["kind"], place, binding["roleRef"]["name"]]:
            for resource in rule["resources"]:
                found.setdefault((place, f"{rule['apiGroups'][0]}/{resource}"), set()).update(rule["verbs"])
    return found


def test_every_binding_refers_to_an_existing_role_and_accounts(installed: Rendered) -> None:
    accounts = names(installed.objects_of("", "ServiceAccount"))
    for binding in [*installed.objects_of(RBAC, "RoleBinding"), *installed.objects_of(RBAC, "ClusterRoleBinding")]:
        role = binding["roleRef"]
        place = binding["metadata"].get("namespace", "")
        assert role["name"] in names(installed.objects_of(RBAC, role["kind"]), place)
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "llmariner")
            assert subject["name"] in accounts


def test_workloads_without_declared_permissions_have_none_and_no_token(installed: Rendered) -> None:
    workloads = [each for kind in read_declarations(CHECKOUT) for each in kind]
    tokens = {
        o["metadata"]["name"]: o["automountServiceAccountToken"]
        for o in installed.objects_of("", "ServiceAccount")
        if "automountServiceAccountToken" in o
    }
    without = [each.name for each in workloads if each.kubernetes_role is None]
    assert len(without) >= 8
    for name in without:
        assert rules(installed, name) == {}
        assert tokens[name] is False
    for service in installed.services():
        name, spec = service["metadata"]["name"], service["spec"]["template"]["spec"]
        assert (spec.get("automountServiceAccountToken") is False) == (name in without), name


def test_a_pod_has_a_token_if_its_account_has_permissions(installed: Rendered) -> None:
    accounts = {o["metadata"]["name"]: o for o in installed.objects_of("", "ServiceAccount")}
    for owner, template in installed.pods():
        account = template["spec"]["serviceAccountName"]
        given = accounts[account].get("automountServiceAccountToken", True)
        mounted = template["spec"].get("automountServiceAccountToken", given)
        assert mounted is bool(rules(installed, account)), owner["metadata"]["name"]


def test_permissions_of_functions_are_limited_to_the_namespaces_of_their_role(installed: Rendered) -> None:
    for each in [each for kind in read_declarations(CHECKOUT) for each in kind if each.kubernetes_role]:
        both = {MODELS, JOBS}
        expected = {"serving": {MODELS}, "quotas": both, "allocations": both}.get(str(each.kubernetes_role), {JOBS})
        given = rules(installed, each.name)
        cluster_wide = {resource for place, resource in given if place == ""}
        assert {place for place, _ in given} - {""} == expected
        of_quotas = {"kueue.x-k8s.io/clusterqueues", "kueue.x-k8s.io/cohorts"}
        assert cluster_wide == (of_quotas if each.kubernetes_role == "quotas" else set())
    assert names(installed.objects_of(RBAC, "ClusterRole")) == {"llmariner-quotas"}


def test_the_serving_function_changes_pods_only_with_standby_engines(installed: Rendered) -> None:
    given = rules(installed, "internal-gateway")
    assert given[MODELS, "/pods"] == {"list"}
    assert given[MODELS, "/events"] == {"create"}


def test_the_serving_function_may_wake_sleep_and_delete(installed: Rendered) -> None:
    given = rules(installed, "internal-gateway")
    assert "patch" in given[MODELS, "apps/deployments/scale"]
    assert {"create", "patch", "delete"} <= given[MODELS, "serving.kserve.io/inferenceservices"]


def test_a_function_that_shows_jobs_changes_nothing(installed: Rendered) -> None:
    for name in ("batch-jobs", "fine-tuning-jobs"):
        assert {verb for verbs in rules(installed, name).values() for verb in verbs} == {"get", "list"}
    assert (JOBS, "/pods/log") not in rules(installed, "fine-tuning-jobs")
    for name in ("batch-job-runner", "batch-job-changes", "fine-tuning-runner", "sweep"):
        given = rules(installed, name)
        assert (JOBS, "/pods/log") not in given
        assert given[JOBS, "/secrets"] == {"create"}


def test_one_function_starts_programs_in_jobs_and_can_do_nothing_else(installed: Rendered) -> None:
    assert rules(installed, "batch-jobs-exec") == {
        (JOBS, "batch/jobs"): {"get"},
        (JOBS, "/pods"): {"list"},
        (JOBS, "/pods/exec"): {"get", "create"},
    }
    starting = [each for each in names(installed.objects_of("", "ServiceAccount")) if _starts(installed, each)]
    assert starting == ["batch-jobs-exec"]


def _starts(rendered: Rendered, account: str) -> bool:
    return any(resource == "/pods/exec" for _, resource in rules(rendered, account))


def test_one_function_uses_kubernetes_for_all_others_and_few_for_jobs(installed: Rendered) -> None:
    roles = {each.name: each.kubernetes_role for kind in read_declarations(CHECKOUT) for each in kind}
    assert {name: role for name, role in roles.items() if role} == {
        "internal-gateway": "serving",
        "batch-jobs": "jobs-reader",
        "batch-jobs-exec": "jobs-exec",
        "batch-job-runner": "jobs",
        "batch-job-changes": "jobs",
        "notebook-runner": "jobs",
        "workspaces-notebooks": "jobs-status",
        "fine-tuning-jobs": "jobs-status",
        "fine-tuning-runner": "jobs",
        "sweep": "jobs",
        "organization-quotas": "quotas",
        "quota-settlement": "quotas",
        "allocation-changes": "allocations",
    }
    assert installed.settings()["LLMARINER_JOBS"] == "kubernetes"
    assert installed.settings()["LLMARINER_SERVING"] == "remote"
    (service,) = [each for each in installed.services() if each["metadata"]["name"] == "internal-gateway"]
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert {"name": "LLMARINER_SERVING", "value": "kserve"} in container["env"]


def test_no_permission_covers_secrets_or_wildcards(installed: Rendered) -> None:
    for role in [*installed.objects_of(RBAC, "Role"), *installed.objects_of(RBAC, "ClusterRole")]:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            if "pods/exec" in rule["resources"]:
                assert (role["metadata"]["name"], role["metadata"]["namespace"]) == ("jobs-exec", JOBS)
            if "secrets" in rule["resources"]:
                assert role["metadata"]["name"] in ("secrets", "jobs", "serving")
                # Secrets of jobs go with these; those of an engine's adapters also when they change.
                verbs = {"create", "delete"} if role["metadata"]["name"] == "serving" else {"create"}
                assert set(rule["verbs"]) <= verbs or rule["resourceNames"]


def test_an_api_server_source_may_watch_its_resources(installed: Rendered) -> None:
    watched: set[str] = set()
    for source in installed.objects_of("sources.knative.dev", "ApiServerSource"):
        given = rules(installed, source["spec"]["serviceAccountName"])
        for each in source["spec"]["resources"]:
            kind = resource_for(each)
            watched.add(kind.kind)
            for place in (MODELS, JOBS):
                assert given[place, f"{kind.api_version.rpartition('/')[0]}/{kind.plural}"] == {"get", "list", "watch"}
        (namespaces,) = source["spec"]["namespaceSelector"]["matchExpressions"]
        assert (namespaces["operator"], namespaces["values"]) == ("In", [MODELS, JOBS])
    assert watched == {"InferenceService", "Job", "Workload"}


def test_an_unknown_permission_is_rejected(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models", kubernetes="admin")
    with pytest.raises(
        DeclarationError,
        match="must be one of allocations, jobs, jobs-exec, jobs-reader, jobs-status, quotas, serving, not 'admin'",
    ):
        read_declarations(checkout)


def test_pods_of_all_namespaces_have_a_security_standard(installed: Rendered) -> None:
    levels = {o["metadata"]["name"]: enforced(o) for o in installed.objects_of("", "Namespace")}
    assert levels == {
        "llmariner": "restricted",
        MODELS: "baseline",
        JOBS: "restricted",
        "llmariner-gateway": "baseline",
    }


def enforced(namespace: Object) -> str:
    level: str = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    return level
