"""An S3 server for a test session: Ceph's Object Gateway with one monitor and one disk, in a temporary folder, on loopback.

Daemons authenticate no one another and are reached by this machine only. The gateway checks the keys of its users, as it
does anywhere; it encrypts with a key of the tests, and issues credentials of roles.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmariner.object_settings import S3Settings
from llmariner.settings import Secret

__all__ = ["Gateway", "NoGateway", "running"]

_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_SECONDS = 120
_FSID = "8f1d6b6e-0000-4000-8000-000000000001"
_DISK = "8f1d6b6e-0000-4000-8000-0000000000aa"
KMS_KEY = "tests"

_CONFIGURATION = """
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v1:127.0.0.1:{monitor}]
ms_bind_msgr2 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
run_dir = {folder}
log_file = {folder}/$name.log
admin_socket = {folder}/$name.asok
[mon.a]
mon_data = {folder}/mon
host = localhost
[osd]
# The monitor refuses these commands now and then ("wrong fsid"), and the disk then ends.
osd_class_update_on_start = false
osd_crush_update_on_start = false
osd_objectstore = bluestore
osd_data = {folder}/osd
bluestore_block_size = {disk_bytes}
bluestore_block_create = true
osd_memory_target = 939524096
[client.rgw.a]
rgw_frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={folder}/tls.pem
rgw_data = {folder}/rgw
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {kms_key}=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
rgw_s3_auth_use_sts = true
rgw_sts_key = abcdefghijklmnop
"""


class NoGateway(Exception):
    """Ceph's programs are missing or don't start; the message has the cause."""


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its URLs, the file with its certificate, a user, and a role that the user may assume.

    `reader_access_key`, `reader_secret_key`: of the user `reader`, who may do what a bucket's policy allows.
    """

    http: str
    https: str
    certificate: str
    access_key: str
    secret_key: str
    reader_access_key: str
    reader_secret_key: str
    role_arn: str

    def settings(self, bucket: str) -> S3Settings:
        """Settings of a bucket over HTTP."""
        return S3Settings(
            bucket=bucket, endpoint=self.http, access_key=self.access_key, secret_key=Secret(self.secret_key)
        )


@contextmanager
def running(disk_bytes: int = 5 << 30) -> Iterator[Gateway]:
    """Run the server for the block. Raises NoGateway.

    `disk_bytes`: it keeps what was deleted for hours, and no longer answers when the disk is full.
    """
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        raise NoGateway(f"{', '.join(missing)} is not installed (Debian: ceph-mon ceph-osd radosgw)")
    folder = Path(tempfile.mkdtemp(prefix="llmariner-radosgw-"))
    try:
        with ExitStack() as processes:
            yield _start(folder, disk_bytes, processes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, disk_bytes: int, processes: ExitStack) -> Gateway:
    monitor, http, https = _free_ports(3)
    ports = {"monitor": monitor, "http": http, "https": https}
    configuration = folder / "ceph.conf"
    configuration.write_text(
        _CONFIGURATION.format(fsid=_FSID, folder=folder, kms_key=KMS_KEY, disk_bytes=disk_bytes, **ports)
    )
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    _make_certificate(folder)
    ceph = ["-c", str(configuration)]
    _start_monitor(folder, ceph, monitor, processes)
    _start_disk(folder, ceph, processes)
    role = _make_users(ceph)
    processes.enter_context(_process(folder, "radosgw", *ceph, "-n", "client.rgw.a", "-f"))
    _wait(http, folder)
    return Gateway(
        http=f"http://127.0.0.1:{http}",
        https=f"https://127.0.0.1:{https}",
        certificate=str(folder / "authority.pem"),
        access_key="tests-access-key",
        secret_key="tests-secret-key",
        reader_access_key="reader-access-key",
        reader_secret_key="reader-secret-key",
        role_arn=role,
    )


def _start_monitor(folder: Path, ceph: list[str], port: int, processes: ExitStack) -> None:
    address = f"[v1:127.0.0.1:{port}]"
    _run("monmaptool", "--create", "--fsid", _FSID, "--addv", "a", address, str(folder / "monmap"))
    keyring = str(folder / "mon.keyring")
    _run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    _run("ceph-mon", *ceph, "-i", "a", "--mkfs", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    processes.enter_context(_process(folder, "ceph-mon", *ceph, "-i", "a", "-f"))


def _start_disk(folder: Path, ceph: list[str], processes: ExitStack) -> None:
    _run_until_done("ceph", *ceph, "osd", "new", _DISK)
    _run("ceph-osd", *ceph, "-i", "0", "--mkfs", "--osd-uuid", _DISK)
    _run("ceph", *ceph, "osd", "crush", "add", "osd.0", "1", "root=default")
    processes.enter_context(_process(folder, "ceph-osd", *ceph, "-i", "0", "-f"))


def _make_users(ceph: list[str]) -> str:
    """Create the users, and a role that that of the tests may assume and that may do everything; returns the role's ARN."""
    for name in ("tests", "reader"):
        keys = [f"--access-key={name}-access-key", f"--secret-key={name}-secret-key"]
        _run("radosgw-admin", *ceph, "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
    trust = {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/tests"]}, "Action": ["sts:AssumeRole"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = _run("radosgw-admin", *ceph, "role", "create", "--role-name=files", f"--assume-role-policy-doc={policy}")
    allowed = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    _run(
        *("radosgw-admin", *ceph, "role-policy", "put", "--role-name=files"),
        *("--policy-name=all", f"--policy-doc={policy}"),
    )
    arn: str = json.loads(made)["Arn"]
    return arn


def _make_certificate(folder: Path) -> None:
    """A certificate that signs itself. It is valid since the day before yesterday, for tests that set the clock back."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now, days = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=2)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number()).not_valid_before(now - days).not_valid_after(now + days)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "authority.pem").write_bytes(certificate)
    (folder / "tls.pem").write_bytes(key.private_bytes(*form) + certificate)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoGateway(f"{command[0]} does not end within {_SECONDS} s") from error
    if done.returncode:
        raise NoGateway(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _run_until_done(*command: str) -> str:
    """A monitor that has just started refuses what it is asked (EPERM) until it is ready."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            return _run(*command)
        except NoGateway:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


@contextmanager
def _process(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.kill()  # its folder is removed
            process.wait(_SECONDS)


def _wait(port: int, folder: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                output = (folder / "radosgw.out").read_text()[-500:]
                raise NoGateway(f"radosgw does not start: {output}") from error
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for listener in opened:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in opened]
