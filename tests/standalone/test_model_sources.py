"""What sources list, refuse and explain: names, statuses, redirects, private addresses, tokens."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.platform.model_files import FilesUnavailable, RemoteFile, TransferInterrupted, check_files
from llmariner.platform.model_files.http_reader import HttpReader
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ollama import OllamaSource

from .model_server import COMMIT, ModelServer, running_server
from .tiny_model_files import CONFIG, gguf_model, safetensors

MODEL_LAYER = "application/vnd.ollama.image.model"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        yield server


def content(source: Any, file: RemoteFile) -> bytes:
    with source.open_range(file, 0, file.size) as stream:
        return b"".join(iter(lambda: stream.read(1 << 16), b""))


def test_a_listing_is_pinned_to_a_commit(server: ModelServer) -> None:
    server.repositories["org/model"] = {"config.json": CONFIG, "model.safetensors": safetensors()}
    for location in ("org/model", "hf://org/model", "org/model:main", f"org/model:{COMMIT}"):
        source = HuggingFaceSource(location, endpoint=server.url)
        listing = source.list_files()
        assert (listing.revision, source.only) == (COMMIT, "")
        assert [content(source, file) for file in listing.files] == [CONFIG, safetensors()]
    assert {path.split("/")[4] for path, _, _ in server.requests if "/resolve/" in path} == {COMMIT}
    assert HuggingFaceSource("org/model:v1/a/b.gguf", endpoint=server.url).only == "a/b.gguf"


@pytest.mark.parametrize(
    "location", ["", "..", "org/..", "a b/c", "org/model:", "org/model:../x", "s3://b/c", "org/m?x", "-/m"]
)
def test_a_location_that_names_no_repository_is_refused(location: str, server: ModelServer) -> None:
    with pytest.raises(FilesUnavailable, match="owner/name"):
        HuggingFaceSource(location, endpoint=server.url)
    assert server.requests == []


def test_refusals_of_a_hub_say_what_to_do(server: ModelServer) -> None:
    server.repositories["org/gated"] = {"config.json": CONFIG}
    server.gated.add("org/gated")
    server.token = "hf_right"
    cases = [
        ("org/gone", "", "Check the name"),
        ("org/gone", "hf_x", "the token in HF_TOKEN may not read it"),
        ("org/gated", "", "Accept its terms"),
        ("org/gated:v9", "hf_right", "no revision 'v9'"),
    ]
    for location, token, said in cases:
        with pytest.raises(FilesUnavailable, match=said):
            HuggingFaceSource(location, endpoint=server.url, token=token).list_files()
    assert HuggingFaceSource("org/gated", endpoint=server.url, token="hf_right").list_files().files


def test_the_token_goes_to_the_hub_only(server: ModelServer) -> None:
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    server.redirect_to = server.url.replace("127.0.0.1", "localhost")
    source = HuggingFaceSource("org/model", endpoint=server.url, token="hf_secret", private_allowed=True)
    (file,) = source.list_files().files
    assert content(source, file) == safetensors()
    assert {said for path, _, said in server.requests if path.startswith("/cdn/")} == {""}
    assert {said for path, _, said in server.requests if not path.startswith("/cdn/")} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    "place",
    [
        "http://localhost:1",
        "http://127.0.0.2:1",
        "http://[::1]:1",
        "http://[::ffff:10.0.0.1]:1",
        "http://169.254.169.254",
    ],
)
def test_a_redirect_to_a_private_address_is_refused(place: str, server: ModelServer) -> None:
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    server.redirect_to = place
    source = HuggingFaceSource("org/model", endpoint=server.url)
    (file,) = source.list_files().files
    with pytest.raises(FilesUnavailable, match=r"private address.*LLMARINER_MODEL_PRIVATE_ADDRESSES"):
        content(source, file)


def test_a_proxy_of_the_environment_is_used(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is the proxy: it answers for a host that nobody resolves."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "direct.invalid")
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    server.redirect_to = "http://network.invalid"
    source = HuggingFaceSource("org/model", endpoint="http://hub.invalid", token="hf_secret")
    (file,) = source.list_files().files
    assert content(source, file) == safetensors()
    assert {said for path, _, said in server.requests if path.startswith("/cdn/")} == {""}
    server.redirect_to = "http://10.0.0.1"
    with pytest.raises(FilesUnavailable, match="private address"):
        content(source, file)
    with pytest.raises(TransferInterrupted, match="does not answer"):
        HuggingFaceSource("org/model", endpoint="http://direct.invalid").list_files()


def test_an_encrypted_hub_is_reached_through_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = []

    def proxy(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            lines.append(connection.recv(4096).split(b"\r\n")[0])
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy, args=(listener,))
        thread.start()
        with pytest.raises(TransferInterrupted, match=r"hub\.invalid does not answer"):
            HuggingFaceSource("org/model", endpoint="https://hub.invalid").list_files()
        thread.join(10)
    assert [line.rpartition(b" ")[0] for line in lines] == [b"CONNECT hub.invalid:443"]


def test_redirects_are_bounded_and_stay_encrypted(server: ModelServer) -> None:
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    loop = f"{server.url}/v2/m/blobs/{'0' * 64}?"
    source = HuggingFaceSource("org/model", endpoint=server.url)
    (file,) = source.list_files().files
    for place, said in (
        ("ftp://x", "not encrypted"),
        ("file:///etc/passwd#", "not encrypted"),
        (loop, "redirects more"),
    ):
        server.redirect_to = place
        with pytest.raises(FilesUnavailable, match=said):
            content(source, file)
    secure = HttpReader("https://hub.example", {}, private_allowed=True)
    with pytest.raises(FilesUnavailable, match="not encrypted"), secure.range(server.url, 0, 1):
        pass


def test_an_ollama_model_is_listed_by_its_layers(server: ModelServer) -> None:
    weights = gguf_model()
    layers = {MODEL_LAYER: weights, "application/vnd.ollama.image.template": b"{{ .Prompt }}", "text/other": b"x"}
    server.repositories["tiny:latest"] = server.repositories["me/tiny:v1"] = layers
    for name in ("tiny", "ollama://tiny:latest", "me/tiny:v1"):
        source = OllamaSource(name, endpoint=server.url)
        listing = source.list_files()
        assert {file.path: content(source, file) for file in listing.files} == {
            "model.gguf": weights,
            "ollama_template.txt": b"{{ .Prompt }}",
        }
        assert listing.revision.startswith("sha256:")
    with pytest.raises(FilesUnavailable, match="no model 'gone:latest', or it is private"):
        OllamaSource("gone", endpoint=server.url).list_files()
    server.repositories["empty:latest"] = {"application/vnd.ollama.image.license": b"MIT"}
    with pytest.raises(FilesUnavailable, match="no layer with weights"):
        OllamaSource("empty", endpoint=server.url).list_files()
    for name in ("../x", "a/b/c", "a:b:c", "", "x y", "host.example:5000/a/b"):
        with pytest.raises(FilesUnavailable, match="no model of an Ollama registry"):
            OllamaSource(name, endpoint=server.url)


OUTSIDE = ("../x", "a/../x", "/etc/passwd", "a//b", ".", "..", ".ssh/keys", "a/.git/x", "")
UNUSUAL = ("a\\b", "a\0b", "a\nb", "x" * 256, "a/" * 8 + "b", "ä")


@pytest.mark.parametrize("path", [*OUTSIDE, *UNUSUAL])
def test_names_that_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(FilesUnavailable, match="named"):
        check_files([RemoteFile(path, 1, "u")])


def test_listings_are_bounded() -> None:
    for files, said in (
        ([RemoteFile(f"f{index}", 1, "u") for index in range(5001)], "over the limit"),
        ([RemoteFile("a", -1, "u")], "size of -1"),
        ([RemoteFile("a", 1 << 60, "u")], "size of"),
        ([RemoteFile("a", 1, "u"), RemoteFile("a", 2, "u")], "two files"),
        ([RemoteFile("a", 1, "u"), RemoteFile("a/b", 2, "u")], "two files"),
        ([RemoteFile("a/b", 1, "u"), RemoteFile("a", 2, "u")], "two files"),
    ):
        with pytest.raises(FilesUnavailable, match=said):
            check_files(files)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"null",
        b"[" * 100_000,
        json.dumps({"sha": 5, "siblings": []}).encode(),
        json.dumps({"sha": "abc", "siblings": None}).encode(),
        json.dumps({"sha": "abc", "siblings": [{}]}).encode(),
        json.dumps({"sha": "abc", "siblings": ["x"]}).encode(),
        json.dumps({"sha": "abc", "siblings": [{"rfilename": "m", "lfs": {"size": 1}}]}).encode(),
        json.dumps({"sha": "../../x", "siblings": []}).encode(),
    ],
)
def test_answers_of_no_hub_are_refused(answer: bytes, server: ModelServer) -> None:
    server.answer = answer
    with pytest.raises(FilesUnavailable):
        HuggingFaceSource("org/model", endpoint=server.url).list_files()
