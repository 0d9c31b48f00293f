"""Kueue as a process beside the API server: it admits workloads, and nothing runs them."""

from __future__ import annotations

import base64
import shutil
from typing import Any

import yaml

from .certificates import Authority
from .control_plane import kubeconfig
from .kubectl import apply, kubectl
from .manifests import CRD, Manifest
from .parts import kueue
from .places import Lab
from .processes import alive, start
from .program_builds import program
from .wait import LabError, until

__all__ = ["start_kueue"]

_NAMESPACE = "kueue-system"
_WEBHOOK, _VISIBILITY = "kueue-webhook-service", "kueue-visibility-server"
_PORTS = {_WEBHOOK: 9443, _VISIBILITY: 8082}
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
# The paths of its certificates are fixed: it gets a root of its own, with the cluster's keys at their usual place.
_IN_A_ROOT = """
root="$1"; keys="$2"; shift 2
mkdir -p "$root$keys"
mount --bind "$keys" "$root$keys"
exec chroot "$root" "$@"
"""
_CERTIFICATE_FOLDERS = ("tmp/k8s-webhook-server/serving-certs", "etc/kueue/metrics/certs", "visibility")
_KINDS = ("Namespace", "Service", "APIService", *_WEBHOOKS)


def start_kueue(lab: Lab) -> None:
    """Start it and wait until it admits. The definitions of its kinds are there."""
    authority, objects, root = Authority(lab.certificates), kueue(), lab.folder / "kueue"
    certificate = authority.sign("kueue-webhook", common_name=_WEBHOOK, hosts=(f"{_WEBHOOK}.{_NAMESPACE}.svc",))
    for folder in (root / each for each in _CERTIFICATE_FOLDERS):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(certificate, folder / "tls.crt")
        shutil.copyfile(certificate.with_suffix(".key"), folder / "tls.key")
    (root / "config.yaml").write_text(yaml.safe_dump(_settings(objects)))
    if not (root / "manager").exists():
        (root / "manager").hardlink_to(program("kueue", "kueue"))
    trusted = base64.b64encode(authority.certificate.read_bytes()).decode()
    kept = [_local(lab, each, trusted) for each in objects if each["kind"] in _KINDS and each["kind"] != CRD]
    apply(lab, [each for each in kept if each["kind"] not in _WEBHOOKS])
    manager = ("/manager", "--config=/config.yaml", f"--kubeconfig={kubeconfig(lab, 'admin')}", "--zap-log-level=2")
    start(lab, "kueue", "unshare", "--mount", "sh", "-ec", _IN_A_ROOT, "kueue", root, lab.certificates, *manager)
    apply(lab, [each for each in kept if each["kind"] in _WEBHOOKS])
    until("Kueue", lambda: _not_ready(lab), seconds=180)


def _settings(objects: list[Manifest]) -> dict[str, Any]:
    """Its configuration, for one process that gets its certificate from us."""
    (stored,) = (each["data"] for each in objects if each["kind"] == "ConfigMap" and "data" in each)
    found: dict[str, Any] = yaml.safe_load(stored["controller_manager_config.yaml"])
    found["leaderElection"] = {"leaderElect": False}
    found["internalCertManagement"] = {"enable": False}
    found["namespace"] = _NAMESPACE
    found["integrations"]["frameworks"] = ["batch/job", "pod", "statefulset"]
    return found


def _local(lab: Lab, each: Manifest, trusted: str) -> Manifest:
    """Services lead to the process by its address: there is nothing else that would carry their traffic."""
    port = _PORTS.get(each["metadata"]["name"])
    if each["kind"] == "Service" and port is not None:
        each["spec"] = {"type": "ExternalName", "externalName": lab.address, "ports": [{"port": port}]}
    elif each["kind"] == "APIService":
        each["spec"]["service"]["port"] = _PORTS[_VISIBILITY]
    for webhook in each.get("webhooks", []):
        webhook["clientConfig"]["service"]["port"] = _PORTS[_WEBHOOK]
        webhook["clientConfig"]["caBundle"] = trusted
    return each


def _not_ready(lab: Lab) -> str | None:
    if not alive(lab, "kueue"):
        raise LabError(f"kueue is not running; see {lab.logs / 'kueue'}.log")
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "kueue-is-ready"}}
    try:
        apply(lab, [flavor])
        kubectl(lab, "get", "--raw=/apis/visibility.kueue.x-k8s.io/v1beta2", seconds=30)
    except LabError as error:
        return str(error).strip().splitlines()[-1]
    return None
