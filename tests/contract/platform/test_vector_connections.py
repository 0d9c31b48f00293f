"""Connections to a Milvus by address: TLS, credentials, and what a caller sees when it does not answer.

The server is Milvus Lite behind gRPC's own TLS.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from milvus_lite.db import MilvusLite

from llmariner.platform.vectors import VectorIndexUnavailable
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.settings import Secret, VectorSettings
from llmariner.standalone.milvus_lite.server import new_gate, new_server

from .vector_chunks import COLLECTION, STORE, chunk

TENANT = "proj_1"
TOKEN = "root:a password with: colons"


@dataclass(frozen=True)
class Authority:
    """A certificate authority in files below `folder`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> str:
        """Its own certificate."""
        return str(self.folder / "ca.pem")

    def issue(self, name: str) -> tuple[str, str]:
        """Files of a certificate for a host name or an address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.folder / f"{name}.pem"
        certificate.write_bytes(pem(signed(name, key, self.certificate.subject, self.key)))
        key_file = self.folder / f"{name}.key"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(certificate), str(key_file)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def signed(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        alternative = x509.DNSName(name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=key is issuer_key, path_length=None), critical=True)
    )
    return builder.sign(issuer_key, hashes.SHA256())


def new_authority(folder: Path) -> Authority:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signed("authority", key, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]), key)
    (folder / "ca.pem").write_bytes(pem(certificate))
    return Authority(folder, key, certificate)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLite]:
    database = MilvusLite(str(tmp_path_factory.mktemp("lite")))
    yield database
    database.close()


@pytest.fixture
def serve(lite: MilvusLite, authority: Authority) -> Iterator[Callable[..., str]]:
    """Starts a server with a certificate for a name; returns its address. `clients`: it asks for certificates of clients."""
    servers = []

    def start(name: str = "127.0.0.1", *, clients: bool = False) -> str:
        certificate, key = (Path(file).read_bytes() for file in authority.issue(name))
        roots = Path(authority.file).read_bytes() if clients else None
        credentials = grpc.ssl_server_credentials([(key, certificate)], roots, require_client_auth=clients)
        servers.append(new_server(lite, new_gate(lite, TOKEN)))
        port = servers[-1].add_secure_port("127.0.0.1:0", credentials)
        servers[-1].start()
        return f"https://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def settings_of(uri: str, authority: Authority) -> VectorSettings:
    return VectorSettings(uri, token=Secret(TOKEN), ca_file=authority.file, seconds=5)


def assert_answers(settings: VectorSettings) -> None:
    index = MilvusIndex(lambda _seconds: settings)
    index.upsert(COLLECTION, TENANT, [chunk("here", id_="vsf_1-0")])
    assert index.chunk_counts(COLLECTION, TENANT, STORE) == {"file-1": 1}
    index.close()


def assert_unavailable(settings: VectorSettings) -> str:
    index = MilvusIndex(lambda _seconds: replace(settings, seconds=1))
    with pytest.raises(VectorIndexUnavailable) as raised:
        index.ensure(COLLECTION)
    index.close()
    return str(raised.value)


def test_tls_with_the_authority_and_the_token_is_answered(serve: Callable[..., str], authority: Authority) -> None:
    assert_answers(settings_of(serve(), authority))


def test_settings_of_the_environment_reach_the_connection(
    serve: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    certificate, key = authority.issue("platform")
    env = {
        "LLMARINER_MILVUS_URI": serve("milvus.internal", clients=True),
        "LLMARINER_MILVUS_TOKEN_FILE": str(tmp_path / "token"),
        "LLMARINER_MILVUS_CA_FILE": authority.file,
        "LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE": certificate,
        "LLMARINER_MILVUS_CLIENT_KEY_FILE": key,
        "LLMARINER_MILVUS_SERVER_NAME": "milvus.internal",
    }
    assert_answers(VectorSettings.load(env))


def test_certificate_of_another_authority_is_refused(
    serve: Callable[..., str], authority: Authority, tmp_path: Path
) -> None:
    other = new_authority(tmp_path / "other")
    settings = settings_of(serve(), authority)
    assert_unavailable(replace(settings, ca_file=other.file))
    assert_unavailable(replace(settings, ca_file=""))


def test_certificate_of_another_name_is_refused(serve: Callable[..., str], authority: Authority) -> None:
    settings = settings_of(serve("milvus.internal"), authority)
    assert_unavailable(settings)
    assert_answers(replace(settings, server_name="milvus.internal"))


def test_wrong_token_is_refused_and_not_repeated_in_the_message(
    serve: Callable[..., str], authority: Authority
) -> None:
    message = assert_unavailable(replace(settings_of(serve(), authority), token=Secret("root:mistyped")))
    assert "mistyped" not in message


def test_missing_client_certificate_is_refused(serve: Callable[..., str], authority: Authority) -> None:
    assert_unavailable(settings_of(serve(clients=True), authority))


def test_plain_http_to_a_tls_port_is_refused(serve: Callable[..., str], authority: Authority) -> None:
    settings = settings_of(serve(), authority)
    assert_unavailable(replace(settings, uri=settings.uri.replace("https", "http"), ca_file=""))


def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert_unavailable(VectorSettings(f"http://127.0.0.1:{unused.getsockname()[1]}"))


def test_callers_of_a_silent_server_do_not_wait_one_after_the_other() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        index = MilvusIndex(lambda _seconds: VectorSettings(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=1))
        outcomes: list[str] = []

        def call() -> None:
            try:
                index.chunk_counts(COLLECTION, TENANT, STORE)
            except VectorIndexUnavailable:
                outcomes.append("unavailable")

        began = time.monotonic()
        threads = [threading.Thread(target=call) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == ["unavailable"] * 12
        assert time.monotonic() - began < 8


def test_a_search_of_a_silent_server_ends_at_its_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        settings = VectorSettings(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=60)
        index = MilvusIndex(lambda _seconds: settings)
        began = time.monotonic()
        for deadline in (began - 1, began + 0.3):
            with pytest.raises(VectorIndexUnavailable):
                index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1, deadline=deadline)
            with pytest.raises(VectorIndexUnavailable):
                index.search_vectors(COLLECTION, TENANT, [STORE], [1.0] * 8, limit=1, deadline=deadline)
        assert time.monotonic() - began < 20


def test_a_search_waits_no_longer_for_another_threads_connection_or_collection(
    serve: Callable[..., str], authority: Authority
) -> None:
    settings = settings_of(serve(), authority)
    index = MilvusIndex(lambda _seconds: settings)
    index.upsert(COLLECTION, TENANT, [chunk("here", id_="vsf_1-0")])
    connection = index._connections.current(None)
    for lock in (index._connections._lock, connection._lock):
        connection.forget(next(iter(connection._prepared), ""))
        with lock, pytest.raises(VectorIndexUnavailable):
            index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1, deadline=time.monotonic() + 0.05)
    soon = time.monotonic() + 60
    found = index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1, deadline=soon)
    assert [hit.text for hit in found] == ["here"]
    index.close()


def test_collection_dropped_or_released_by_an_operator_is_prepared_again(
    serve: Callable[..., str], authority: Authority, lite: MilvusLite
) -> None:
    settings = settings_of(serve(), authority)
    index = MilvusIndex(lambda _seconds: settings)
    index.upsert(COLLECTION, TENANT, [chunk("here", id_="vsf_1-0")])
    (name,) = lite.list_collections()

    lite.get_collection(name).release()
    assert [hit.text for hit in index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1)] == ["here"]

    lite.drop_collection(name)
    assert index.search_text(COLLECTION, TENANT, [STORE], "here", limit=1) == []
    index.upsert(COLLECTION, TENANT, [chunk("again", id_="vsf_1-0")])
    assert [hit.text for hit in index.search_text(COLLECTION, TENANT, [STORE], "again", limit=1)] == ["again"]
    index.close()


def test_collection_left_half_made_is_completed(
    serve: Callable[..., str], authority: Authority, lite: MilvusLite
) -> None:
    """A process may be killed between the creation of a collection and that of its indexes."""
    settings = settings_of(serve(), authority)
    index = MilvusIndex(lambda _seconds: settings)
    index.ensure(COLLECTION)
    (name,) = lite.list_collections()
    collection = lite.get_collection(name)
    collection.release()
    collection.drop_index("words")
    index.close()

    index.upsert(COLLECTION, TENANT, [chunk("whole", id_="vsf_2-0")])
    assert [hit.text for hit in index.search_text(COLLECTION, TENANT, [STORE], "whole", limit=1)] == ["whole"]
    index.close()
