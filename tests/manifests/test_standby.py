"""Standby engines: off by default, controlled by one function, and without additional permissions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from llmariner.installation.__main__ import main
from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.standby_token import ensure_token
from llmariner.manifests.jobs import SECRETS_IMAGE
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.resources import SECRETS
from llmariner.platform.serving.kserve.phases import STANDBY_LABEL
from llmariner.settings import ClusterSettings, KServeSettings

from .kustomize import Object, Rendered, names

if TYPE_CHECKING:
    from kubernetes_api.schemas import Schemas

CHECKOUT = Path(__file__).parents[2]
MODELS = "llmariner-models"
SECRET = "llmariner-standby"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The playground with the component added, as its administrator would."""
    place = tmp_path_factory.mktemp("rendered")
    for folder in ("manifests", "kserve"):
        shutil.copytree(CHECKOUT / folder, place / folder)
    overlay = place / "manifests/overlays/playground/kustomization.yaml"
    body = yaml.safe_load(overlay.read_text())
    body["components"].append("../../components/standby-engine")
    overlay.write_text(yaml.safe_dump(body))
    return Rendered(overlay.parent)


def deployment(rendered: Rendered) -> Object:
    (found,) = [each for each in rendered.objects_of("apps", "Deployment") if each["metadata"]["namespace"] == MODELS]
    return found


def engine(rendered: Rendered) -> Object:
    (found,) = deployment(rendered)["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def runtime() -> Object:
    body = yaml.safe_load((CHECKOUT / "kserve/cpu/vllm-cpu.yaml").read_text())
    (found,) = body["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_every_object_is_admitted(rendered: Rendered, schemas: Schemas) -> None:
    assert {(o["kind"], o["metadata"]["name"]): f for o in rendered.objects if (f := schemas.faults(o))} == {}


def test_standby_engines_are_in_no_overlay_by_default() -> None:
    for overlay in (CHECKOUT / "manifests/overlays").glob("*/kustomization.yaml"):
        assert "standby-engine" not in overlay.read_text()


def test_standby_engines_use_quota_and_are_preempted_by_all_others(rendered: Rendered) -> None:
    labels = deployment(rendered)["metadata"]["labels"]
    queues = names(rendered.objects_of("kueue.x-k8s.io", "LocalQueue"), MODELS)
    assert labels["kueue.x-k8s.io/queue-name"] in queues
    classes = {
        o["metadata"]["name"]: o["value"] for o in rendered.objects_of("kueue.x-k8s.io", "WorkloadPriorityClass")
    }
    assert classes[labels["kueue.x-k8s.io/priority-class"]] == min(classes.values())
    assert len(set(classes.values())) == len(classes)


def test_standby_engines_have_the_runtimes_resources(rendered: Rendered) -> None:
    template = deployment(rendered)["spec"]["template"]
    assert template["metadata"]["labels"][STANDBY_LABEL] == "vllm-cpu"
    assert deployment(rendered)["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ours, theirs = engine(rendered), runtime()
    assert ours["name"] == theirs["name"]
    assert ours["securityContext"] == theirs["securityContext"]
    assert ours["ports"][0] == theirs["ports"][0]
    assert {each["name"] for each in theirs["env"]} <= {each["name"] for each in ours["env"]}
    settings = KServeSettings()
    for kind in ("requests", "limits"):
        assert ours["resources"][kind] == {"cpu": settings.cpu, "memory": settings.memory}


def test_readiness_means_serving_and_startup_means_claimable(rendered: Rendered) -> None:
    container = engine(rendered)
    ports = {each.get("name", "engine"): each["containerPort"] for each in container["ports"]}
    assert ports == {"engine": 8080, "control": 8090}
    assert container["startupProbe"]["httpGet"] == {"path": "/ready", "port": "control"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8080}
    assert container["livenessProbe"]["httpGet"] == {"path": "/live", "port": "control"}
    assert deployment(rendered)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 70


def test_only_the_serving_function_has_the_token_and_the_connection(rendered: Rendered) -> None:
    having = {
        service["metadata"]["name"]
        for service in rendered.services()
        for container in service["spec"]["template"]["spec"]["containers"]
        for each in container["env"]
        if SECRET in str(each)
    }
    assert having == {"internal-gateway"}
    (policy,) = [
        o
        for o in rendered.objects_of("networking.k8s.io", "NetworkPolicy")
        if o["metadata"]["name"] == "standby-engine"
    ]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= (
        deployment(rendered)["spec"]["template"]["metadata"]["labels"].items()
    )
    ways = {port["port"]: rule["from"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert ways.keys() == {8080, 8090}
    (who,) = ways[8090]
    assert who["podSelector"] == {"matchLabels": {"serving.knative.dev/service": "internal-gateway"}}
    assert who["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "llmariner"}}


def test_only_the_serving_function_may_assign_pods_to_models(rendered: Rendered) -> None:
    rbac = "rbac.authorization.k8s.io"
    changing = {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch", "delete"]}
    (role,) = [o for o in rendered.objects_of(rbac, "Role") if changing in o["rules"]]
    bound = [
        (o["metadata"].get("namespace"), each["name"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for o in rendered.objects_of(rbac, kind)
        if o["roleRef"]["name"] in (role["metadata"]["name"], "llmariner-serving-runtimes")
        for each in o["subjects"]
    ]
    assert bound == [(MODELS, "internal-gateway"), (None, "internal-gateway")]


def test_the_job_may_create_one_secret_in_both_namespaces_and_its_image_exists(rendered: Rendered) -> None:
    (job,) = [o for o in rendered.objects_of("batch", "Job") if o["metadata"]["name"].startswith("standby-token")]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(SECRETS_IMAGE)
    roles = [
        o for o in rendered.objects_of("rbac.authorization.k8s.io", "Role") if o["metadata"]["name"] == "standby-token"
    ]
    assert {o["metadata"]["namespace"] for o in roles} == {"llmariner", MODELS}
    for role in roles:
        create, change = role["rules"]
        assert create["verbs"] == ["create"]
        assert (change["resourceNames"], change["verbs"]) == ([SECRET], ["get", "patch"])


@pytest.fixture
def both(secret_objects: SecretObjects, api_server: Any, tmp_path: Path) -> tuple[SecretObjects, SecretObjects]:
    cluster = Cluster(ClusterSettings(api_server.kubeconfig(tmp_path / "kubeconfig")))
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MODELS}})
    cluster.close()
    return secret_objects, SecretObjects(secret_objects._cluster, MODELS)


def word(secrets: SecretObjects) -> str:
    found = secrets.get(SECRET)
    assert found is not None
    return found.values["STANDBY_TOKEN"]


def test_one_token_is_created_for_both_namespaces_and_kept(both: tuple[SecretObjects, SecretObjects]) -> None:
    reported = ensure_token(*both)
    assert len(reported) == 2
    made = word(both[0])
    assert made == word(both[1])
    assert len(made) >= 32
    assert made not in " ".join(reported)
    assert ensure_token(*both) == ["The token is there."]
    assert (word(both[0]), word(both[1])) == (made, made)


def test_the_copy_follows_the_platforms_token_unless_somebody_else_owns_it(
    both: tuple[SecretObjects, SecretObjects],
) -> None:
    ours, models = both
    ours.create(SECRET, {"STANDBY_TOKEN": "of an administrator"})
    models.create(SECRET, {"STANDBY_TOKEN": "an old one"})
    ensure_token(ours, models)
    assert word(models) == "of an administrator"
    by_hand = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}, "data": {"STANDBY_TOKEN": "eA=="}}
    models._cluster.merge_patch(SECRETS, MODELS, SECRET, by_hand)
    with pytest.raises(RetryLater, match="make them the same"):
        ensure_token(ours, models)


def test_the_step_runs_by_name(
    both: tuple[SecretObjects, SecretObjects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMARINER_KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert main(["standby-token"]) == 0
    assert word(both[0]) == word(both[1])
