"""Our port to Kubernetes, on a server in the test process and, where one is named, on a real one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.errors import Unavailable
from llmariner.platform.kube import Cluster, Listing
from llmariner.platform.kube.errors import AlreadyExists, Cause, Conflict, Forbidden, Invalid, NotFound
from llmariner.platform.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    NAMESPACES,
    NODES,
    Resource,
    resource_for,
)
from llmariner.settings import ClusterSettings

from .caller import until
from .objects import config_map, deployment, inference_service
from .schemas import Schemas
from .server import ApiServer


@pytest.fixture
def alone(server: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """The port on a server of the test's own."""
    made = Cluster(ClusterSettings(server.kubeconfig(tmp_path / "alone")))
    yield made
    made.close()


def test_a_missing_object_is_none(cluster: Cluster, namespace: str) -> None:
    assert cluster.get(CONFIG_MAPS, namespace, "settings") is None
    assert cluster.get(CONFIG_MAPS, "no-such-namespace", "settings") is None
    assert cluster.get(Resource("example.org/v1", "Thing", "things"), namespace, "settings") is None


def test_an_object_is_applied_read_and_deleted(cluster: Cluster, namespace: str) -> None:
    applied = cluster.apply(config_map(namespace, size="7"))
    read = cluster.get(CONFIG_MAPS, namespace, "settings")
    assert read is not None
    assert read["data"] == {"size": "7"}
    assert read["metadata"]["uid"] == applied["metadata"]["uid"]
    assert cluster.delete(CONFIG_MAPS, namespace, "settings") is True
    assert cluster.delete(CONFIG_MAPS, namespace, "settings") is False
    assert cluster.get(CONFIG_MAPS, namespace, "settings") is None


def test_fields_left_out_of_an_apply_are_removed(cluster: Cluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, ours="1", also="2"))
    cluster.apply(config_map(namespace, theirs="3"), manager="kubectl")
    assert cluster.apply(config_map(namespace, ours="1"))["data"] == {"ours": "1", "theirs": "3"}


def test_a_conflict_names_fields_and_owners_and_can_be_forced(cluster: Cluster, namespace: str) -> None:
    cluster.apply(config_map(namespace, shared="theirs", alone="x"), manager="kubectl")
    with pytest.raises(Conflict) as refused:
        cluster.apply(config_map(namespace, shared="ours"))
    assert [(cause.field, cause.owner) for cause in refused.value.causes] == [("data.shared", "kubectl")]
    assert "kubectl" in str(refused.value)
    assert cluster.apply(config_map(namespace, shared="ours"), force=True)["data"]["shared"] == "ours"


def test_a_dry_run_changes_nothing(cluster: Cluster, namespace: str) -> None:
    assert cluster.apply(config_map(namespace, size="7"), dry_run=True)["data"] == {"size": "7"}
    assert cluster.create(config_map(namespace, size="7"), dry_run=True)["data"] == {"size": "7"}
    assert cluster.get(CONFIG_MAPS, namespace, "settings") is None


def test_a_name_is_unique(cluster: Cluster, namespace: str) -> None:
    cluster.create(config_map(namespace))
    with pytest.raises(AlreadyExists):
        cluster.create(config_map(namespace))


def test_an_unknown_field_is_rejected_by_every_write(cluster: Cluster, namespace: str) -> None:
    cluster.create(deployment(namespace))
    wrong = deployment(namespace, "other")
    wrong["spec"]["replica"] = 1
    writes: list[Callable[[], Any]] = [
        lambda: cluster.create(wrong),
        lambda: cluster.apply(wrong),
        lambda: cluster.merge_patch(DEPLOYMENTS, namespace, "engine", {"spec": {"replica": 1}}),
    ]
    for write in writes:
        with pytest.raises(Invalid, match="replica"):
            write()


def test_a_wrong_value_is_rejected_with_its_path(cluster: Cluster, namespace: str) -> None:
    with pytest.raises(Invalid) as refused:
        cluster.create(config_map(namespace, "Not a name"))
    assert [cause.field for cause in refused.value.causes] == ["metadata.name"]


def test_writing_to_a_missing_namespace_is_reported(cluster: Cluster) -> None:
    for write in (cluster.create, cluster.apply):
        with pytest.raises(NotFound, match="no-such-namespace"):
            write(config_map("no-such-namespace"))


def test_a_merge_changes_the_named_fields(cluster: Cluster, namespace: str) -> None:
    cluster.create(config_map(namespace, kept="1", changed="2", gone="3"))
    merged = cluster.merge_patch(CONFIG_MAPS, namespace, "settings", {"data": {"changed": "4", "gone": None}})
    assert merged["data"] == {"kept": "1", "changed": "4"}
    with pytest.raises(NotFound):
        cluster.merge_patch(CONFIG_MAPS, namespace, "other", {"data": {}})


def test_a_merge_on_a_stale_version_is_rejected(cluster: Cluster, namespace: str) -> None:
    before = cluster.create(config_map(namespace, step="1"))["metadata"]["resourceVersion"]
    patch = {"data": {"step": "2"}}
    after = cluster.merge_patch(CONFIG_MAPS, namespace, "settings", patch, resource_version=before)
    assert after["data"] == {"step": "2"}
    with pytest.raises(Conflict) as refused:
        cluster.merge_patch(CONFIG_MAPS, namespace, "settings", {"data": {"step": "3"}}, resource_version=before)
    assert not isinstance(refused.value, AlreadyExists)
    assert "resourceVersion" not in patch


@pytest.mark.usefixtures("objects_unchanged")
def test_replicas_are_set_through_the_scale_subresource(cluster: Cluster, namespace: str) -> None:
    version = cluster.create(deployment(namespace))["metadata"]["resourceVersion"]
    cluster.scale(DEPLOYMENTS, namespace, "engine", 1, resource_version=version)
    scaled = cluster.get(DEPLOYMENTS, namespace, "engine")
    assert scaled is not None
    assert scaled["spec"]["replicas"] == 1
    with pytest.raises(Conflict):
        cluster.scale(DEPLOYMENTS, namespace, "engine", 2, resource_version=version)
    with pytest.raises(NotFound):
        cluster.scale(DEPLOYMENTS, namespace, "other", 1)
    with pytest.raises(Invalid):
        cluster.scale(DEPLOYMENTS, namespace, "engine", -1)


def test_deleting_a_different_object_of_the_same_name_is_rejected(cluster: Cluster, namespace: str) -> None:
    made = cluster.create(config_map(namespace))["metadata"]
    with pytest.raises(Conflict):
        cluster.delete(CONFIG_MAPS, namespace, "settings", uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Conflict):
        cluster.delete(CONFIG_MAPS, namespace, "settings", resource_version="1")
    assert cluster.delete(CONFIG_MAPS, namespace, "settings", uid=made["uid"])


def test_a_list_is_complete_for_any_number_of_pages(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.platform.kube.watch._PAGE_SIZE", 2)
    for number in range(5):
        cluster.create(config_map(namespace, f"n{number}", {"odd": str(number % 2)}))
    names = {item["metadata"]["name"] for item in cluster.list(CONFIG_MAPS, namespace, labels={"odd": "0"}).items}
    assert names == {"n0", "n2", "n4"}
    one = cluster.list(CONFIG_MAPS, None, labels={"odd": "1"}, fields="metadata.name=n3").items
    assert [(item["kind"], item["metadata"]["namespace"]) for item in one] == [("ConfigMap", namespace)]
    with pytest.raises(NotFound):
        cluster.list(Resource("example.org/v1", "Thing", "things"), namespace)


def test_a_watch_reports_existing_and_new_objects(cluster: Cluster, namespace: str) -> None:
    cluster.create(config_map(namespace, "first", {"ours": "yes"}))
    reported = RecordingWatch(cluster, namespace, {"ours": "yes"})
    until(lambda: reported.seen)
    cluster.create(config_map(namespace, "second", {"ours": "yes"}))
    cluster.create(config_map(namespace, "foreign"))
    cluster.merge_patch(CONFIG_MAPS, namespace, "second", {"data": {"x": "1"}})
    cluster.merge_patch(CONFIG_MAPS, namespace, "first", {"metadata": {"labels": {"ours": None}}})
    cluster.delete(CONFIG_MAPS, namespace, "second")
    until(lambda: len(reported.seen) >= 5)
    reported.end()
    assert reported.seen == [
        ("ADDED", "first"),
        ("ADDED", "second"),
        ("MODIFIED", "second"),
        ("DELETED", "first"),
        ("DELETED", "second"),
    ]


def test_a_watch_after_a_list_misses_nothing(cluster: Cluster, namespace: str) -> None:
    cluster.create(config_map(namespace, "first"))
    listing = cluster.list(CONFIG_MAPS, namespace, fields="metadata.name!=kube-root-ca.crt")
    cluster.create(config_map(namespace, "second"))
    watch = cluster.watch(CONFIG_MAPS, namespace, fields="metadata.name!=kube-root-ca.crt", after=listing, seconds=1.5)
    began = time.monotonic()
    assert [(change.type, change.object["metadata"]["name"]) for change in watch] == [("ADDED", "second")]
    assert 1 < time.monotonic() - began < 10


class RecordingWatch:
    """A watch in a thread, and the events that it received."""

    def __init__(self, cluster: Cluster, namespace: str, labels: dict[str, str], after: Listing | None = None) -> None:
        self.watch = cluster.watch(CONFIG_MAPS, namespace, labels=labels, after=after)
        self.seen: list[tuple[str, str]] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for change in self.watch:
            self.seen.append((change.type, change.object["metadata"]["name"]))

    def end(self) -> None:
        self.watch.close()
        self.thread.join(5)
        assert not self.thread.is_alive()


def test_closing_ends_a_watch_at_once(cluster: Cluster, namespace: str) -> None:
    reported = RecordingWatch(cluster, namespace, {"ours": "yes"})
    time.sleep(0.3)
    began = time.monotonic()
    reported.end()
    assert time.monotonic() - began < 1


def test_a_watch_that_fell_behind_lists_again_and_reports_the_difference(server: ApiServer, alone: Cluster) -> None:
    for name in ("stays", "goes", "moves"):
        alone.create(config_map("default", name, {"ours": "yes"}))
    listing = alone.list(CONFIG_MAPS, "default", labels={"ours": "yes"})
    alone.delete(CONFIG_MAPS, "default", "goes")
    alone.merge_patch(CONFIG_MAPS, "default", "moves", {"data": {"x": "1"}})
    alone.create(config_map("default", "comes", {"ours": "yes"}))
    server.expire()
    reported = RecordingWatch(alone, "default", {"ours": "yes"}, listing)
    until(lambda: len(reported.seen) >= 3)
    # A running one must start over, too, and then there is nothing to report.
    server.expire()
    alone.create(config_map("default", "late", {"ours": "yes"}))
    until(lambda: len(reported.seen) >= 4)
    reported.end()
    assert reported.seen == [("DELETED", "goes"), ("ADDED", "comes"), ("MODIFIED", "moves"), ("ADDED", "late")]


def test_a_watch_survives_a_server_restart(server: ApiServer, alone: Cluster) -> None:
    alone.create(config_map("default", "before", {"ours": "yes"}))
    reported = RecordingWatch(alone, "default", {"ours": "yes"})
    until(lambda: reported.seen)
    server.stop()
    time.sleep(0.3)
    server.start()
    alone.create(config_map("default", "after", {"ours": "yes"}))
    until(lambda: len(reported.seen) >= 2)
    reported.end()
    assert reported.seen == [("ADDED", "before"), ("ADDED", "after")]


def test_a_server_that_is_down_is_unavailable(server: ApiServer, alone: Cluster) -> None:
    alone.create(config_map("default"))
    server.stop()
    began = time.monotonic()
    for ask in (
        lambda: alone.get(CONFIG_MAPS, "default", "settings"),
        lambda: alone.apply(config_map("default")),
        lambda: list(alone.watch(CONFIG_MAPS, "default")),
    ):
        with pytest.raises(Unavailable, match="does not answer") as refused:
            ask()
        assert refused.value.headers["retry-after"] == "2"
    assert time.monotonic() - began < 5
    server.start()
    assert alone.get(CONFIG_MAPS, "default", "settings")


def test_a_missing_permission_is_reported(server: ApiServer, alone: Cluster) -> None:
    server.forbid("get configmaps", "watch configmaps", "patch configmaps")
    for ask in (
        lambda: alone.get(CONFIG_MAPS, "default", "settings"),
        lambda: alone.apply(config_map("default")),
        lambda: list(alone.watch(CONFIG_MAPS, "default", seconds=5)),
    ):
        with pytest.raises(Forbidden, match="cannot"):
            ask()


def test_custom_resources_are_validated_by_their_schemas(alone: Cluster) -> None:
    applied = alone.apply(inference_service("default"))
    assert applied["metadata"]["generation"] == 1
    with pytest.raises(Invalid, match="replicas"):
        alone.apply(inference_service("default", replicas=1))
    with pytest.raises(Invalid) as refused:
        alone.apply(inference_service("default", minReplicas="one"))
    assert Cause("spec.predictor.minReplicas", '"one" is not of type "integer"') in refused.value.causes


def test_two_owners_of_one_inference_service(alone: Cluster) -> None:
    model = inference_service("default")
    model["spec"]["predictor"]["model"]["env"] = [{"name": "A", "value": "ours"}]
    alone.apply(model)
    theirs = inference_service("default")
    theirs["spec"]["predictor"] = {
        "model": {"modelFormat": {"name": "vLLM"}, "env": [{"name": "B", "value": "theirs"}]}
    }
    both = alone.apply(theirs, manager="kubectl")
    assert [each["name"] for each in both["spec"]["predictor"]["model"]["env"]] == ["A", "B"]
    model["spec"]["predictor"]["model"]["env"] = []
    ours = alone.apply(model)
    assert [each["name"] for each in ours["spec"]["predictor"]["model"]["env"]] == ["B"]


def test_a_rotated_token_is_reloaded_and_no_proxy_is_used(
    schemas: Schemas, crds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "server.pem"))
    with ApiServer(schemas, crds, token="first", certificate=certificate(tmp_path / "server.pem")) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # the way out, and not to the API server
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
        (tmp_path / "token").write_text("first")
        cluster = Cluster(ClusterSettings())
        assert cluster.get(NAMESPACES, None, "default")
        server.token = "second"
        with pytest.raises(Forbidden, match="Unauthorized"):
            cluster.get(NAMESPACES, None, "default")
        (tmp_path / "token").write_text("second")
        assert cluster.get(NAMESPACES, None, "default")
        assert [change.object["metadata"]["name"] for change in cluster.watch(NODES, None, seconds=1)] == []
        cluster.close()


def certificate(place: Path) -> Path:
    """A self-signed one for the loopback, with its key."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", place, "-out", place.with_suffix(".c")],
        check=True,
        capture_output=True,
        timeout=30,
    )  # fmt: skip
    place.write_text(place.with_suffix(".c").read_text() + place.read_text())
    return place


def test_outside_a_pod_a_kubeconfig_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ValueError, match="LLMARINER_KUBECONFIG"):
        Cluster(ClusterSettings())


def test_the_settings_name_a_kubeconfig_and_a_namespace(tmp_path: Path) -> None:
    assert ClusterSettings.load({}) == ClusterSettings(None, "llmariner")
    assert ClusterSettings.load({"LLMARINER_KUBECONFIG": "", "LLMARINER_NAMESPACE": ""}) == ClusterSettings()
    (tmp_path / "config").write_text("{}")
    env = {"LLMARINER_KUBECONFIG": str(tmp_path / "config"), "LLMARINER_NAMESPACE": "models-2"}
    assert ClusterSettings.load(env) == ClusterSettings(tmp_path / "config", "models-2")
    with pytest.raises(ValueError, match=r"^LLMARINER_KUBECONFIG must name a kubeconfig file"):
        ClusterSettings.load({"LLMARINER_KUBECONFIG": str(tmp_path / "none")})
    for wrong in ("Models", "-a", "a_b", "a" * 64):
        with pytest.raises(ValueError, match=r"^LLMARINER_NAMESPACE must be the name of a namespace"):
            ClusterSettings.load({"LLMARINER_NAMESPACE": wrong})


def test_a_body_must_name_its_kind_and_namespace(alone: Cluster) -> None:
    with pytest.raises(ValueError, match=r"set metadata\.namespace"):
        alone.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}})
    with pytest.raises(ValueError, match=r"Thing of example\.org/v1 is not in"):
        alone.create({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}})
    with pytest.raises(ValueError, match="namespace"):
        alone.get(CONFIG_MAPS, None, "settings")


def test_the_server_serves_every_resource_of_the_platform(server: ApiServer) -> None:
    from llmariner.platform.kube import resources

    stored = [each for each in vars(resources).values() if isinstance(each, Resource)]
    ours = [each for each in stored if each is not resources.ACCESS_REVIEWS]  # a question, which is kept nowhere
    assert len(ours) > 10
    served = {(kind.api_version, kind.name, kind.plural, kind.namespaced) for kind in server.api.kinds}
    assert {(each.api_version, each.kind, each.plural, each.namespaced) for each in ours} <= served
    assert resource_for(inference_service("default")) is INFERENCE_SERVICES


def test_the_client_is_imported_on_first_use() -> None:
    code = "import sys, llmariner.platform.kube; sys.exit('kubernetes' in sys.modules or 'urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
