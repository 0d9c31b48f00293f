"""The cluster's certificate authority and its certificates, with openssl."""

from __future__ import annotations

from pathlib import Path

from .places import Lab
from .wait import run

__all__ = ["Authority", "make_all"]

_DAYS = 3650


class Authority:
    """An authority in a folder: `NAME.crt` and `NAME.key`. Keys are made once."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        if not self.certificate.exists():
            run("openssl", "req", "-x509", *_fresh_key(self._key), "-out", self.certificate, "-days", _DAYS,
                "-subj", f"/CN=lab-{name}", "-addext", "keyUsage=critical,keyCertSign,digitalSignature")  # fmt: skip

    def sign(self, name: str, *, common_name: str, organization: str = "", hosts: tuple[str, ...] = ()) -> Path:
        """Make `name`.crt and `name`.key for a server (with `hosts`) or a client, and give the certificate's path."""
        certificate, request = self._folder / f"{name}.crt", self._folder / f"{name}.csr"
        if certificate.exists():
            return certificate
        subject = (f"/O={organization}" if organization else "") + f"/CN={common_name}"
        run("openssl", "req", *_fresh_key(certificate.with_suffix(".key")), "-out", request, "-subj", subject)
        extensions = "extendedKeyUsage=serverAuth,clientAuth\n"
        if hosts:
            kinds = ("IP" if host.replace(".", "").isdigit() else "DNS" for host in hosts)
            names = ",".join(f"{kind}:{host}" for kind, host in zip(kinds, hosts, strict=True))
            extensions += f"subjectAltName={names}\n"
        run("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-days", _DAYS,
            "-CAcreateserial", "-extfile", "/dev/stdin", "-out", certificate, text=extensions)  # fmt: skip
        request.unlink()
        return certificate


def make_all(lab: Lab) -> None:
    """Every certificate of the control plane and the node."""
    authority = Authority(lab.certificates)
    cluster = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    authority.sign(
        "apiserver",
        common_name="kube-apiserver",
        hosts=(*cluster, "localhost", "127.0.0.1", lab.address, lab.service(1)),
    )
    authority.sign("kubelet-server", common_name=lab.name, hosts=(lab.name, lab.address, "127.0.0.1"))
    authority.sign("admin", common_name="admin", organization="system:masters")
    authority.sign("apiserver-kubelet", common_name="apiserver-kubelet", organization="system:masters")
    authority.sign("kubelet", common_name=f"system:node:{lab.name}", organization="system:nodes")
    for part in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        authority.sign(part, common_name=f"system:{part}")
    Authority(lab.certificates, "front-proxy-ca").sign("front-proxy", common_name="front-proxy")
    accounts = lab.certificates / "service-accounts.key"
    if not accounts.exists():
        run("openssl", "genrsa", "-out", accounts, 2048)


def _fresh_key(path: Path) -> tuple[object, ...]:
    return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path
