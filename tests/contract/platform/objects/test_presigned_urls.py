"""Presigned URLs of S3: what they give, that nobody can change them, and links to files that lead to them."""

from __future__ import annotations

import importlib
import json
import random
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from llmariner.context import Context
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.training_program.download import Download
from llmariner.object_settings import S3Settings
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.s3 import S3Objects
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key, ensure_first_owner

from .contents import get, put
from .radosgw import Gateway

_processes = importlib.import_module("....functions.processes", __package__)
NewS3 = Callable[..., S3Objects]
HEADERS = {"content_type": "text/html", "content_disposition": "attachment; filename*=UTF-8''%C3%BCber%20%22x%22.html"}


def request(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes, Message]:
    """Ask without credentials."""
    asked = urllib.request.Request(url, body, {"content-type": ""} if body else {}, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_no_store_gives_out_urls_unless_a_setting_says_so(store: ObjectStore) -> None:
    put(store, "files/file_1", b"text")
    assert store.signed_download("files/file_1", **HEADERS) is None


def test_anybody_reads_one_object_by_its_url_and_does_nothing_else(new_s3: NewS3) -> None:
    s3 = new_s3(presigned_seconds=60)
    put(s3, "files/file_1", b"text")
    put(s3, "files/file_2", b"other")
    url = s3.signed_download("files/file_1", **HEADERS)
    assert url is not None
    status, body, headers = request(url)
    assert (status, body) == (200, b"text")
    assert headers["content-type"] == "text/html"
    assert headers["content-disposition"] == HEADERS["content_disposition"]
    assert request(url.replace("file_1", "file_2"))[0] == 403
    assert request(url.partition("?")[0])[0] == 403
    for method in ("PUT", "DELETE", "HEAD"):
        assert request(url, method, b"other" if method == "PUT" else None)[0] == 403, method
    parts = urlsplit(url)
    values = {name: value for name, [value] in parse_qs(parts.query).items()}
    assert values["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert values["X-Amz-Expires"] == "60"
    for name in values:
        changed = {**values, name: {"X-Amz-Expires": "600"}.get(name, values[name] + "x")}
        assert request(f"{parts._replace(query='').geturl()}?{urlencode(changed)}")[0] in (400, 403), name
    assert get(s3, "files/file_1") == b"text"


def test_a_url_expires(new_s3: NewS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = new_s3(presigned_seconds=1)
    put(s3, "files/file_1", b"text")
    url = s3.signed_download("files/file_1", **HEADERS)
    assert url is not None
    deadline = time.monotonic() + 30
    while request(url)[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.3)
    assert request(url)[0] == 403
    # A job continues where it stopped, by a URL that is asked for then.
    content, target = random.Random(1).randbytes(3 << 20), tmp_path / "state"
    put(s3, "files/file_1", content)
    lasting = new_s3(presigned_seconds=60)
    download = Download(url, target, lambda: str(lasting.signed_download("files/file_1", **HEADERS)))
    assert not download.advance()
    read, left = HTTPResponse.read, [1 << 20, 0]  # the connection ends after the first block
    with monkeypatch.context() as patched:
        patched.setattr(HTTPResponse, "read", lambda answer, size=None: read(answer, left.pop(0) if left else size))
        assert not download.advance()
    assert target.read_bytes() == content[: 1 << 20]
    assert download.advance()
    assert target.read_bytes() == content


def test_urls_are_of_the_address_that_clients_reach(new_s3: NewS3, gateway: Gateway) -> None:
    elsewhere = new_s3(presigned_seconds=60, public_endpoint="https://files.example.org")
    assert urlsplit(elsewhere.signed_download("files/file_1", **HEADERS) or "").netloc == "files.example.org"
    # The platform writes over HTTP, and clients read over HTTPS, at another port.
    s3 = new_s3(presigned_seconds=60, public_endpoint=gateway.https)
    put(s3, "files/file_1", b"text")
    url = s3.signed_download("files/file_1", **HEADERS)
    assert url is not None
    trusting = ssl.create_default_context(cafile=gateway.certificate)
    with urllib.request.urlopen(url, timeout=30, context=trusting) as answer:
        assert answer.read() == b"text"


def test_a_link_leads_curl_to_the_store(settings: S3Settings, tmp_path: Path) -> None:
    environment = {
        "LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path}/platform.db",
        "LLMARINER_PEPPER": "p" * 32,
        "LLMARINER_SERVICE_SECRET": "s" * 32,
        "LLMARINER_OBJECTS": "s3",
        "LLMARINER_S3_BUCKET": settings.bucket,
        "LLMARINER_S3_PREFIX": settings.prefix,
        "LLMARINER_S3_ENDPOINT": settings.endpoint,
        "LLMARINER_S3_ACCESS_KEY": settings.access_key,
        "LLMARINER_S3_SECRET_KEY": settings.secret_key.reveal(),
        "LLMARINER_S3_PRESIGNED_SECONDS": "60",
    }
    context = Context(environment)
    upgrade(context.database)
    owner = ensure_first_owner(context.database)
    _, secret = create_bootstrap_key(context.keys, owner, "admin")
    with context.files.receive(owner, purpose=None, size_bytes=0, limit_bytes=99) as content:
        content.write(b"0123456789")
        file = context.files.save(owner, NewFile("Bericht é.txt", Purpose.USER_DATA, "text/plain"), content)
    folder = _processes.CHECKOUT / "functions/files"
    with _processes.process(_processes.boot_command(folder), environment, tmp_path / "log") as port:
        base = f"http://127.0.0.1:{port}/v1/files/{file.id}"
        key = ["-H", f"Authorization: Bearer {secret}"]
        url = json.loads(curl(*key, "-H", "content-type: application/json", "-d", "{}", f"{base}/links"))["url"]
        assert curl("-L", url) == b"0123456789"
        assert curl("-L", "-r", "2-4", url) == b"234"
        assert curl("-OJL", url, cwd=tmp_path / "objects") == b""
        assert (tmp_path / "objects/Bericht _.txt").read_bytes() == b"0123456789"
        assert f"location: {settings.endpoint}/".encode() in curl("-D", "-", url).lower()
        # Who has a key asks the platform, and so does who asks for headers alone.
        assert curl(*key, f"{base}/content") == b"0123456789"
        assert b"content-length: 10" in curl("-I", url).lower()
        caller = context.authenticator.authenticate(secret)
        assert caller is not None
        context.files.delete(caller, file.id)
        assert b"404" in curl("-o", "/dev/null", "-w", "%{http_code}", url)
    context.database.close()


def curl(*arguments: str, cwd: Path | None = None) -> bytes:
    """What curl prints, as a user calls it."""
    if cwd is not None:
        cwd.mkdir()
    return subprocess.run(["curl", "-sS", *arguments], capture_output=True, timeout=30, check=True, cwd=cwd).stdout
