"""What `kubectl apply` makes in a worker cluster: the agent, with the rights that it uses and no others.

The agent lists nodes and pods, reads the Deployments of known names, and, where a namespace of the GPU operator is named,
writes one ConfigMap there. It reads no Secret but its own, which is a file. Where the platform may run work, it lists Jobs:
`sessions.control_plane_roles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmariner import __version__
from llmariner.agent.components import DEPLOYMENT_NAMES
from llmariner.clusters.device_plugin import CONFIG_MAP

__all__ = ["AGENT_IMAGE", "AGENT_NAME", "AgentManifest"]

AGENT_IMAGE = f"llmariner/agent:{__version__}"
AGENT_NAME = "llmariner-agent"
"""The name of its objects, and of its service account."""
_KEY, _CA = "registration-key", "ca.crt"
_LABELS = {"app.kubernetes.io/name": AGENT_NAME, "app.kubernetes.io/part-of": "llmariner"}
_RBAC = "rbac.authorization.k8s.io"
_MOUNT = "/var/run/secrets/llmariner"
_USER = 65532
_PRIORITY = 1000

Object = dict[str, Any]


@dataclass(frozen=True)
class AgentManifest:
    """`control_plane`: its URL as the worker cluster reaches it. `certificates`: PEM of its authorities, if not public.

    `gpu_namespace`: of the GPU operator, which must exist; empty: the agent configures no GPUs.
    """

    control_plane: str
    registration_key: str
    namespace: str = "llmariner-agent"
    image: str = AGENT_IMAGE
    certificates: str = ""
    proxy: str = ""
    gpu_namespace: str = ""
    plain_http: bool = False

    def objects(self) -> list[Object]:
        """The objects, in the order in which they are to be made."""
        cluster_wide = [
            _rule("", ["nodes", "pods"], "list"),
            {**_rule("apps", ["deployments"], "get"), "resourceNames": list(DEPLOYMENT_NAMES)},
        ]
        return [
            self._namespace(),
            self._priority_class(),
            self._object("v1", "ServiceAccount", automountServiceAccountToken=False),
            {**_meta(f"{_RBAC}/v1", "ClusterRole"), "rules": cluster_wide},
            self._binding("ClusterRole", _meta(f"{_RBAC}/v1", "ClusterRoleBinding")),
            *self._gpu_role(),
            self._secret(),
            self._deployment(),
        ]

    def _namespace(self) -> Object:
        labels = {**_LABELS, "pod-security.kubernetes.io/enforce": "restricted"}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}

    def _priority_class(self) -> Object:
        """Before other pods that wait for room, since without its agent nobody reaches the cluster; it drives out none."""
        policy = {"preemptionPolicy": "Never", "globalDefault": False}
        return {**_meta("scheduling.k8s.io/v1", "PriorityClass"), "value": _PRIORITY, **policy}

    def _object(self, api_version: str, kind: str, **fields: Any) -> Object:
        return {**_meta(api_version, kind, self.namespace), **fields}

    def _binding(self, role: str, binding: Object) -> Object:
        subject = {"kind": "ServiceAccount", "name": AGENT_NAME, "namespace": self.namespace}
        return {**binding, "roleRef": {"apiGroup": _RBAC, "kind": role, "name": AGENT_NAME}, "subjects": [subject]}

    def _gpu_role(self) -> list[Object]:
        if not self.gpu_namespace:
            return []
        # A name can't be required of what is created.
        own = {**_rule("", ["configmaps"], "get", "patch", "delete"), "resourceNames": [CONFIG_MAP]}
        role = _meta(f"{_RBAC}/v1", "Role", self.gpu_namespace)
        binding = _meta(f"{_RBAC}/v1", "RoleBinding", self.gpu_namespace)
        return [{**role, "rules": [_rule("", ["configmaps"], "create"), own]}, self._binding("Role", binding)]

    def _secret(self) -> Object:
        data = {_KEY: self.registration_key, **({_CA: self.certificates} if self.certificates else {})}
        return self._object("v1", "Secret", type="Opaque", stringData=data)

    def _deployment(self) -> Object:
        container = {
            "name": "agent",
            "image": self.image,
            "command": ["python", "-m", "llmariner.agent"],
            "env": [{"name": name, "value": value} for name, value in self._environment().items()],
            "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "registration", "mountPath": _MOUNT, "readOnly": True},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }
        pod = {
            "serviceAccountName": AGENT_NAME,
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "priorityClassName": AGENT_NAME,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "registration", "secret": {"secretName": AGENT_NAME, "defaultMode": 0o440}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
            ],
        }
        spec = {
            "replicas": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/name": AGENT_NAME}},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        }
        return self._object("apps/v1", "Deployment", spec=spec)

    def _environment(self) -> dict[str, str]:
        found = {
            "LLMARINER_AGENT_CONTROL_PLANE": self.control_plane,
            "LLMARINER_AGENT_KEY_FILE": f"{_MOUNT}/{_KEY}",
            "LLMARINER_AGENT_CA_FILE": f"{_MOUNT}/{_CA}" if self.certificates else "",
            "LLMARINER_AGENT_GPU_NAMESPACE": self.gpu_namespace,
            "LLMARINER_AGENT_PLAIN_HTTP": "1" if self.plain_http else "",
            "HTTPS_PROXY": self.proxy,
        }
        return {name: value for name, value in found.items() if value}


def _meta(api_version: str, kind: str, namespace: str = "") -> Object:
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": AGENT_NAME, **place, "labels": dict(_LABELS)}}


def _rule(group: str, resources: list[str], *verbs: str) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": list(verbs)}
