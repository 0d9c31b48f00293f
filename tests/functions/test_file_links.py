"""Links to files over HTTP: their URLs, ranges and headers, redirects to the store, and what logs have of them."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llmariner.boot import load
from llmariner.context import Context
from llmariner.files.file import File
from llmariner.files.files import Files
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.organizations.bootstrap import create_bootstrap_key

from .conftest import Ask
from .http_calls import HttpRequest, HttpResponse, InProcessClient, assert_error, send_over_http
from .installation import Installation
from .processes import CHECKOUT, boot_command, framework_command, process
from .test_file_content import DATA, RANGES, made

Create = Callable[..., HttpResponse]
Get = Callable[..., HttpResponse]


@pytest.fixture(scope="module")
def file(installation: Installation) -> File:
    return made(installation, DATA, "Bericht é.html")


@pytest.fixture
def create(ask: Ask, admin: dict[str, str], file: File) -> Create:
    """Make a link."""

    def created(file_id: str = file.id, body: Any = None, **headers: str) -> HttpResponse:
        said = {**admin, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return ask("files", HttpRequest("POST", f"/v1/files/{file_id}/links", body or {}, said))

    return created


@pytest.fixture
def get(ask: Ask) -> Get:
    """Use a URL without a key."""

    def got(url: str, method: str = "GET", **headers: str) -> HttpResponse:
        parts = urlsplit(url)
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask("files", HttpRequest(method, parts.path, None, said, parts.query))

    return got


def test_a_link_is_an_object_with_a_url(create: Create, file: File) -> None:
    answer = create(body={"expires_in_seconds": 60})
    link = answer.json
    assert (answer.status, link["object"], link["file_id"]) == (200, "file.link", file.id)
    assert link["expires_at"] == link["created_at"] + 60
    assert create().json["expires_at"] - create().json["created_at"] == 3600
    assert urlsplit(link["url"]).path == f"/v1/files/{file.id}/content"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "platform.example:8080"}, "http://platform.example:8080"),
        ({"host": "x", "x_forwarded_host": "api.example.org"}, "http://api.example.org"),
        ({"host": "x", "x_forwarded_host": "api.example.org", "x_forwarded_proto": "https"}, "https://api.example.org"),
        ({"host": "x", "x_forwarded_host": "evil/path?", "x_forwarded_proto": "javascript"}, "http://x"),
    ],
)
def test_the_url_is_that_of_the_request(headers: dict[str, str], expected: str, create: Create) -> None:
    parts = urlsplit(create(**headers).json["url"])
    assert f"{parts.scheme}://{parts.netloc}" == expected


def test_the_url_is_that_of_the_settings(
    create: Create, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = installation.context.files
    monkeypatch.setattr(files, "settings", replace(files.settings, public_url="https://api.example.org/llm"))
    url = create(host="inside", x_forwarded_host="other.example").json["url"]
    assert url.startswith("https://api.example.org/llm/v1/files/")


@pytest.mark.parametrize("seconds", [0, -1, 604_801, 10**30])
def test_a_link_is_valid_for_at_most_a_week(seconds: int, create: Create) -> None:
    answer = create(body={"expires_in_seconds": seconds})
    assert_error(answer, 400, "invalid_value")
    assert answer.error["param"] == "expires_in_seconds"


def test_anybody_reads_the_content_by_its_link(create: Create, get: Get, ask: Ask, admin: dict[str, str]) -> None:
    url = create().json["url"]
    answer = get(url)
    path = urlsplit(url).path
    by_key = ask("files", HttpRequest("GET", path, None, admin))
    volatile = {"x-request-id", "openai-processing-ms", "referrer-policy"}
    assert (answer.status, answer.body) == (200, DATA)
    assert {n: v for n, v in answer.headers.items() if n not in volatile} == {
        n: v for n, v in by_key.headers.items() if n not in volatile
    }
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert get(url, "HEAD").headers["content-length"] == str(len(DATA))
    assert get(url, if_none_match=answer.headers["etag"]).status == 304
    for text, (status, body, _) in RANGES.items():
        found = get(url, range=text)
        assert (found.status, found.body) == (status, body), text


def test_a_link_decides_whatever_key_is_sent(create: Create, get: Get, installation: Installation) -> None:
    url = create().json["url"]
    for secret in (installation.keys.revoked, installation.keys.outsider, "unknown"):
        assert get(url, authorization=f"Bearer {secret}").status == 200
    admin = f"Bearer {installation.keys.admin}"
    assert_error(get(url[:-9], authorization=admin), 403, "invalid_link")
    assert_error(get(url.partition("=")[0] + "=", authorization=admin), 403, "invalid_link")


def test_a_link_opens_nothing_else(create: Create, get: Get, installation: Installation, file: File) -> None:
    url = create().json["url"]
    query = urlsplit(url).query
    other = made(installation, b"other")
    assert_error(get(f"/v1/files/{other.id}/content?{query}"), 403, "invalid_link")
    assert_error(get(f"/v1/files/file-unknown/content?{query}"), 403, "invalid_link")
    for method, path in (
        ("GET", "/v1/files"),
        ("GET", f"/v1/files/{file.id}"),
        ("DELETE", f"/v1/files/{file.id}"),
        ("POST", f"/v1/files/{file.id}/links"),
    ):
        assert_error(get(f"{path}?{query}", method), 401, "invalid_api_key")
    token = parse_qs(query)["link"][0]
    assert get("/v1/files", authorization=f"Bearer {token}").status == 401


def test_a_key_that_is_bound_to_networks_binds_its_links(create: Create, get: Get, installation: Installation) -> None:
    keys, owner, read = installation.context.keys, installation.owner, frozenset({"api.files.read"})
    key, secret = keys.create(owner, NewKey("here", read, allowed_sources=("127.0.0.0/8",)))
    url = create(authorization=f"Bearer {secret}").json["url"]
    assert get(url).status == 200
    keys.update(owner, key.id, allowed_sources=("10.0.0.0/8",))
    assert_error(get(url), 403, "source_not_allowed")


def test_a_deleted_file_and_a_revoked_key_end_their_links(create: Create, get: Get, installation: Installation) -> None:
    context, owner = installation.context, installation.owner
    key, secret = create_bootstrap_key(context.keys, owner, "maker")
    gone = made(installation, b"gone")
    url = create(gone.id, authorization=f"Bearer {secret}").json["url"]
    kept = create(authorization=f"Bearer {secret}").json["url"]
    assert get(url).body == b"gone"
    admin = context.authenticator.authenticate(installation.keys.admin)
    assert admin is not None
    context.files.delete(admin, gone.id)
    assert_error(get(url), 404, "not_found")
    context.keys.revoke(owner, key.id)
    assert_error(get(kept), 403, "link_revoked")


def test_guesses_are_limited_by_address(
    installation: Installation, in_process: InProcessClient, create: Create
) -> None:
    context = Context({**installation.environment, "LLMARINER_UNKNOWN_KEYS_PER_MINUTE": "3"})
    application = load(CHECKOUT / "functions/files")
    application.use_context(context)
    parts = urlsplit(create().json["url"])

    def use(token: str) -> HttpResponse:
        return in_process.send(application, HttpRequest("GET", parts.path, None, {}, f"link={token}"))

    good = parts.query.removeprefix("link=")
    assert use(good).status == 200
    assert [use(f"guess{number}").status for number in range(4)] == [403, 403, 403, 429]
    assert use(good).status == 200  # one that was accepted before
    context.database.close()


def test_the_store_serves_the_content_where_it_gives_out_urls(
    create: Create, get: Get, file: File, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def signed(file: File, content_disposition: str) -> str:
        asked.append((file.id, content_disposition))
        return "https://store.example/object?X-Amz-Signature=1"

    monkeypatch.setattr(Files, "signed_download", staticmethod(signed))
    url = create().json["url"]
    answer = get(url, range="bytes=1-2")
    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["location"] == "https://store.example/object?X-Amz-Signature=1"
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    said = "attachment; filename=\"Bericht _.html\"; filename*=UTF-8''Bericht%20%C3%A9.html"
    assert asked == [(file.id, said)]
    # A presigned URL is for one method, and a caller with a key asks the platform.
    assert get(url, "HEAD").status == 200
    assert get(url, authorization="Bearer x").status == 302
    path = urlsplit(url).path
    assert get(path, authorization=f"Bearer {installation.keys.admin}").body == DATA


@pytest.fixture(params=["framework", "boot"])
def server(request: pytest.FixtureRequest, installation: Installation, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of the function in a process of its own, and its log; functions-framework logs requests with --debug."""
    folder, log = CHECKOUT / "functions/files", tmp_path / "log"
    command = [*framework_command(folder), "--debug"] if request.param == "framework" else boot_command(folder)
    with process(command, installation.environment, log) as port:
        yield port, log


def test_no_log_has_a_link(server: tuple[int, Path], installation: Installation, file: File) -> None:
    port, log = server
    said = {"authorization": f"Bearer {installation.keys.admin}"}
    created = send_over_http(port, HttpRequest("POST", f"/v1/files/{file.id}/links", {}, said))
    url = created.json["url"]
    assert urlsplit(url).port == port
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == DATA
    curl = ["curl", "-sSf", "-r", "2-4", url, "-w", "%{http_code}"]
    assert subprocess.run(curl, capture_output=True, timeout=30, check=True).stdout == DATA[2:5] + b"206"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url + "x&b=1", timeout=30)
    assert json.load(refused.value)["error"]["code"] == "invalid_link"
    text, token = log.read_text(), parse_qs(urlsplit(url).query)["link"][0]
    assert all(part not in text for part in token.split("."))
