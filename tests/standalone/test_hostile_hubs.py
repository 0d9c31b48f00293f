"""Hubs that never finish an answer, lead to places that are none or private, and list what no file can be."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from llmariner.models.formats import choose_files
from llmariner.models.hub_inspection import InspectingUriFetcher
from llmariner.models.weights import WeightsUnavailable
from llmariner.platform.model_files import ByteStream, FilesUnavailable, Listing, RemoteFile, TransferInterrupted
from llmariner.platform.model_files import http_reader as http_reader_module
from llmariner.platform.model_files.http_reader import HttpReader
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ranges import RangeTransfer, TransferLimits
from llmariner.settings import ModelSettings
from llmariner.standalone.weights import LocalWeights

from .model_server import COMMIT, ModelServer, running_server
from .script_environment import no_file, script_environment
from .test_weights import MODEL, ignore_progress
from .tiny_model_files import CONFIG, safetensors

HEAD = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-3/4\r\n"
DRIPPED_SECONDS = 10.0
# What an answer begins with, and what is sent of it again and again before it is finished.
NEVER_FINISHED = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"Content-Length: 4\r\n\r\n{}  "),
    "headers": (HEAD + b"X-Long: ", b"x", b"\r\nContent-Length: 4\r\n\r\n{}  "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4;", b"x", b"\r\n{}  \r\n0\r\n\r\n"),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n", b"\r\n"),
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running_server() as server:
        yield server


@contextmanager
def dripping(beginning: bytes, again: bytes, end: bytes) -> Iterator[str]:
    """A server whose answers are finished too late."""

    def answer(connection: socket.socket) -> None:
        until = time.monotonic() + DRIPPED_SECONDS
        with connection:
            try:
                connection.recv(4096)
                connection.sendall(beginning)
                while time.monotonic() < until:
                    connection.sendall(again)
                    time.sleep(0.05)
                connection.sendall(end)
            except OSError:
                return

    def serve(listener: socket.socket) -> None:
        with listener:
            for _ in range(2):
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", NEVER_FINISHED)
def test_an_answer_that_is_never_finished_is_given_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_reader_module, "_READ_SECONDS", 0.5)
    monkeypatch.setattr(http_reader_module, "_DOCUMENT_SECONDS", 0.5)
    with dripping(*NEVER_FINISHED[kind]) as url:
        reader = HttpReader(url, {}, private_allowed=False)
        with pytest.raises(TransferInterrupted, match="TimeoutError"):
            reader.document(f"{url}/list")
        with pytest.raises(TransferInterrupted, match="TimeoutError"):
            read_all(reader, f"{url}/file")


def read_all(reader: HttpReader, url: str) -> None:
    with reader.range(url, 0, 4) as body:
        while body.read(4):
            pass


class SilentSource:
    """Answers to no request for a range until it is released."""

    only = ""

    def __init__(self) -> None:
        self.released = threading.Event()

    def list_files(self) -> Listing:
        raise NotImplementedError

    def open_range(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[ByteStream]:
        self.released.wait(30)
        raise FilesUnavailable("It was released.")


def test_a_transfer_is_given_up_while_its_threads_wait(tmp_path: Path) -> None:
    source, part = SilentSource(), tmp_path / "part"
    part.touch()
    limits = TransferLimits(workers=1, patience=0.3)
    ignore: Callable[[int], None] = lambda count: None  # noqa: E731
    transfer = RangeTransfer(source, RemoteFile("m", 4, "u"), part, tmp_path / "ranges", limits, ignore, lambda: None)
    with pytest.raises(FilesUnavailable, match="too slow"):
        transfer.run()
    source.released.set()


def test_a_redirect_to_no_address_is_refused(server: ModelServer) -> None:
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    source = HuggingFaceSource("org/model", endpoint=server.url)
    (file,) = source.list_files().files
    for place in ("http://[", "http://host:99999", "http://host:port", "http://host:0", "http://a@host"):
        server.redirect_to = place
        with pytest.raises(FilesUnavailable, match="refused"), source.open_range(file, 0, 1):
            pass


def test_private_addresses_have_many_forms(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["org/model"] = {"model.safetensors": safetensors()}
    source = HuggingFaceSource("org/model", endpoint=server.url)
    (file,) = source.list_files().files
    embedded = ("[64:ff9b::7f00:1]", "[2002:a00:1::]", "[::7f00:1]", "[::ffff:0:127.0.0.1]")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # The last ones are names, which their resolver decides about where there is no proxy.
    for host in (*embedded, "127.1", "2130706433", "0x7f.1", "017700000001", "127.0.0.1.", "LOCALHOST.", "x.localhost"):
        server.redirect_to = f"http://{host}:1"
        for proxy in ("http://127.0.0.1:9",) if host[-1].isalpha() or host[-1] == "." else ("http://127.0.0.1:9", ""):
            monkeypatch.setenv("http_proxy", proxy)
            with pytest.raises(FilesUnavailable, match="private address"), source.open_range(file, 0, 1):
                pass


@pytest.mark.parametrize("size", [-5, 10**30, "1e999", None, "x"])
def test_sizes_that_no_file_has_are_refused(size: object, server: ModelServer, tmp_path: Path) -> None:
    """By loaders of one machine and of clusters alike, before the registry stores them."""
    weights = {"rfilename": "model.safetensors", "size": size, "lfs": {"sha256": "a" * 64, "size": size}}
    said = {"sha": COMMIT, "siblings": [{"rfilename": "config.json", "size": len(CONFIG), "blobId": ""}, weights]}
    server.answer = json.dumps(said).replace('"1e999"', "1e999").encode()
    server.repositories["org/repository"] = {"config.json": CONFIG}
    settings = ModelSettings(hub=server.url)
    for fetcher in (
        LocalWeights(tmp_path / "models", script_environment(tmp_path), no_file, settings),
        InspectingUriFetcher(settings),
    ):
        with pytest.raises(WeightsUnavailable, match="size"):
            fetcher.fetch(MODEL, ignore_progress)


def test_a_name_that_is_no_text_is_refused(server: ModelServer) -> None:
    server.answer = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "\ud800", "size": 1}]}).encode()
    with pytest.raises(FilesUnavailable, match="without a name"):
        HuggingFaceSource("org/model", endpoint=server.url).list_files()


READ = (
    *(
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "merges.txt",
        "model.safetensors",
    ),
    *("preprocessor_config.json", "qwen.tiktoken", "sentencepiece.bpe.model", "source.spm", "spiece.model"),
    *("tekken.json", "tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "vocab.bpe", "vocab.txt"),
)
"""What engines read of a model's folder."""
LEFT = (
    *("flax_model.msgpack", "model.onnx", "modeling_x.py", "pytorch_model.bin", "tf_model.h5", "tokenizer.pkl"),
    *("README.md", "logo.png", "openvino_tokenizer.xml", "rust_model.ot", "tokenizer.py"),
    *("a.model.v1.bin", "tokenizer.model.v3/x.bin", "tokenizer.model.v3.py", "tokenizer.model.v11m1.pkl"),
)


def test_what_engines_read_is_fetched_and_nothing_else() -> None:
    """By endings: weights of other frameworks, pickles, code and pictures stay where they are."""
    listed = [RemoteFile(name, 1, "u") for name in (*LEFT, *READ)]
    assert tuple(file.path for file in choose_files(listed, "", pickles_allowed=False)) == READ


def test_other_copies_of_the_weights_are_left_out() -> None:
    names = ["config.json", "a.safetensors", "consolidated.safetensors", "original/a.safetensors"]
    files = [RemoteFile(name, 1, "u") for name in names]
    chosen = [file.path for file in choose_files(files, "", pickles_allowed=False)]
    assert chosen == ["config.json", "a.safetensors"]
    only_copies = choose_files([files[0], *files[2:]], "", pickles_allowed=False)
    assert [file.path for file in only_copies] == ["config.json", "consolidated.safetensors", "original/a.safetensors"]


class Sevens:
    """A source of files of sevens."""

    only = ""

    def list_files(self) -> Listing:
        raise NotImplementedError

    @contextmanager
    def open_range(self, file: RemoteFile, start: int, end: int) -> Iterator[ByteStream]:
        yield io.BytesIO(b"7" * (end - start))


def test_a_range_without_a_digest_is_on_the_disk_before_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure, only a digest would find a range that is recorded and was not written."""
    part, record, done = tmp_path / "part", tmp_path / "ranges", []

    def fsync(number: int) -> None:
        done.append((os.fstat(number).st_ino == part.stat().st_ino, record.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    for file, expected in ((RemoteFile("m", 9, "u"), b""), (RemoteFile("m", 9, "u", md5="0" * 32), b"\1")):
        part.write_bytes(b"")
        record.write_bytes(b"")
        done.clear()
        RangeTransfer(Sevens(), file, part, record, TransferLimits(workers=1), lambda _count: None, lambda: None).run()
        assert done[0] == (True, expected)
        assert part.read_bytes() == b"7" * 9
