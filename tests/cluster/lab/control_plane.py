"""etcd, the API server, the controller manager and the scheduler, as processes."""

from __future__ import annotations

import json

from .certificates import make_all
from .kubectl import kubectl
from .places import Lab
from .processes import alive, start
from .program_builds import program
from .wait import LabError, until

__all__ = ["kubeconfig", "start_controllers", "start_server"]

_ETCD = "http://127.0.0.1:2379"


def start_server(lab: Lab) -> None:
    """Start etcd and the API server, write the administrator's kubeconfig, and wait until the server is ready."""
    make_all(lab)
    kubeconfig(lab, "admin")
    (lab.certificates / "admin.conf").replace(lab.kubeconfig)
    start(lab, "etcd", *_etcd(lab))
    start(lab, "kube-apiserver", *_server(lab))
    until("API server", lambda: _not_ready(lab), seconds=180)


def start_controllers(lab: Lab) -> None:
    """Start the controller manager and the scheduler; alone on the machine, they need no leases."""
    pki = lab.certificates
    manager = kubeconfig(lab, "kube-controller-manager")
    start(
        lab,
        "kube-controller-manager",
        program("kubernetes", "kube-controller-manager"),
        f"--kubeconfig={manager}",
        f"--authentication-kubeconfig={manager}",
        f"--authorization-kubeconfig={manager}",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={lab.pods}",
        f"--service-cluster-ip-range={lab.services}",
        "--node-monitor-period=30s",
        "--node-monitor-grace-period=300s",
        "--bind-address=127.0.0.1",
    )
    scheduler = kubeconfig(lab, "kube-scheduler")
    start(
        lab,
        "kube-scheduler",
        program("kubernetes", "kube-scheduler"),
        f"--kubeconfig={scheduler}",
        f"--authentication-kubeconfig={scheduler}",
        f"--authorization-kubeconfig={scheduler}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    )


def kubeconfig(lab: Lab, part: str) -> str:
    """Write the configuration with which a part speaks to the API server, and give its path."""
    pki = lab.certificates
    path = pki / f"{part}.conf"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {"name": lab.name, "cluster": {"server": lab.server, "certificate-authority": f"{pki}/ca.crt"}}
                ],
                "users": [
                    {
                        "name": part,
                        "user": {"client-certificate": f"{pki}/{part}.crt", "client-key": f"{pki}/{part}.key"},
                    }
                ],
                "contexts": [{"name": lab.name, "context": {"cluster": lab.name, "user": part}}],
                "current-context": lab.name,
            },
            indent=1,
        )
    )
    path.chmod(0o600)
    return str(path)


def _etcd(lab: Lab) -> list[object]:
    return [
        program("kubernetes", "etcd"),
        f"--data-dir={lab.folder}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        # A test cluster's data need not outlive a power cut, and two cores need not wait for the disk.
        "--unsafe-no-fsync",
        "--heartbeat-interval=500",
        "--election-timeout=5000",
        "--auto-compaction-retention=1h",
        "--log-level=warn",
    ]


def _server(lab: Lab) -> list[object]:
    pki = lab.certificates
    return [
        program("kubernetes", "kube-apiserver"),
        f"--etcd-servers={_ETCD}",
        f"--bind-address={lab.address}",
        f"--advertise-address={lab.address}",
        f"--service-cluster-ip-range={lab.services}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        "--enable-admission-plugins=NodeRestriction",
        # Beta in 1.34: how a test gives pods of a worker cluster the volumes of this machine's engine environment.
        "--feature-gates=MutatingAdmissionPolicy=true",
        "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-accounts.key",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
    ]


def _not_ready(lab: Lab) -> str | None:
    for part in ("etcd", "kube-apiserver"):
        if not alive(lab, part):
            return f"{part} is not running; see {lab.logs / part}.log"
    try:
        kubectl(lab, "get", "--raw=/readyz", seconds=30)
    except LabError as error:
        return str(error).strip().splitlines()[-1]
    return None
