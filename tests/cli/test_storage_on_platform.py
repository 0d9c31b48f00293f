"""`llma storage` against the platform's own functions: what one command stores, another one finds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.cli.storage.files import downloads, uploads
from llmariner.cli.storage.files.local_files import LocalFile
from llmariner.cli.storage.files.uploads import Uploader
from llmariner.cli.support.api import ApiClient
from llmariner.cli.support.configuration import Target, resolve_target

from .cutting_proxy import CuttingProxy
from .served_functions import ServedFunctions

if TYPE_CHECKING:
    from cli.conftest import Llma

MIB = 1024 * 1024
UPLOAD = ("storage", "files", "upload")
DOWNLOAD = ("storage", "files", "download")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFunctions]:
    folder = tmp_path_factory.mktemp("platform")
    with ServedFunctions(folder, LLMARINER_PROJECT_FILE_BYTES=str(64 * MIB)) as running:
        yield running


@pytest.fixture
def proxy(served: ServedFunctions) -> Iterator[CuttingProxy]:
    with CuttingProxy(served.port) as running:
        yield running


@pytest.fixture
def storage(
    served: ServedFunctions, proxy: CuttingProxy, bare_llma: Llma, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Llma:
    """Run a command line in an empty folder, through the proxy."""
    monkeypatch.setenv("LLMARINER_BASE_URL", f"http://127.0.0.1:{proxy.port}/v1")
    monkeypatch.setenv("LLMARINER_API_KEY", served.key)
    for module in (uploads, downloads):
        monkeypatch.setattr(module, "_RETRY_SECONDS", (0.01,) * 4)
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    return bare_llma


@pytest.fixture
def target(storage: Llma, served: ServedFunctions, proxy: CuttingProxy) -> Target:
    endpoint = f"http://127.0.0.1:{proxy.port}/v1"
    return resolve_target({"LLMARINER_BASE_URL": endpoint, "LLMARINER_API_KEY": served.key})


def test_a_file_is_uploaded_listed_downloaded_and_deleted(storage: Llma, home: Path) -> None:
    path = home / "Bericht ü 日本.pdf"
    path.write_bytes(b"%PDF-1.7\n\x00\xff")
    document = storage(*UPLOAD, str(path), "--purpose", "assistants", "--expires-in", "1", "-o", "json").json
    assert (document["filename"], document["bytes"]) == (path.name, 11)
    assert document["expires_at"] == document["created_at"] + 86_400
    assert path.name in storage("storage", "files", "list", "--purpose", "assistants").out
    assert storage(*DOWNLOAD, document["id"]).code == 0
    assert Path(path.name).read_bytes() == path.read_bytes()
    assert storage("storage", "files", "delete", document["id"]).code == 0
    assert storage("storage", "files", "get", document["id"]).code == 4


def test_the_error_of_a_file_names_its_cause(storage: Llma, home: Path) -> None:
    (home / "in.jsonl").write_text('{"custom_id": "1"}\nnot json\n')
    result = storage(*UPLOAD, str(home / "in.jsonl"), "--purpose", "batch")
    assert (result.code, result.out) == (1, "")
    assert "ine 1" in result.err or "ine 2" in result.err


def test_a_quota_that_is_used_up_is_explained(storage: Llma, home: Path) -> None:
    with (home / "big.bin").open("wb") as big:
        big.truncate(65 * MIB)
    result = storage(*UPLOAD, str(home / "big.bin"), "--purpose", "user_data")
    assert (result.code, result.out) == (1, "")
    assert "`llma storage files list`" in result.err


@pytest.mark.parametrize("limit", [0, 100, 400_000, 900_000])
def test_a_form_that_breaks_off_leaves_no_file(limit: int, storage: Llma, proxy: CuttingProxy, home: Path) -> None:
    (home / "a.bin").write_bytes(b"x" * MIB)
    proxy.sent_limits = [limit]
    result = storage(*UPLOAD, str(home / "a.bin"), "--purpose", "user_data")
    assert (result.code, result.out, proxy.cuts) == (5, "", 1)
    assert storage("storage", "files", "list", "-o", "json").json["data"] == []


def test_a_download_continues_where_the_connection_broke(storage: Llma, proxy: CuttingProxy, home: Path) -> None:
    content = hashlib.shake_256(b"content").digest(MIB)
    (home / "a.bin").write_bytes(content)
    document = storage(*UPLOAD, str(home / "a.bin"), "--purpose", "user_data", "-o", "json").json
    proxy.received_limits = [300_000, 200_000, 100]
    assert storage(*DOWNLOAD, document["id"]).code == 0
    assert proxy.cuts == 3
    assert [each.name for each in Path.cwd().iterdir()] == ["a.bin"]
    assert Path("a.bin").read_bytes() == content
    storage("storage", "files", "delete", document["id"])


def test_parts_survive_broken_connections(storage: Llma, target: Target, proxy: CuttingProxy, home: Path) -> None:
    content = hashlib.shake_256(b"parts").digest(MIB + 7)
    (home / "a.bin").write_bytes(content)
    proxy.sent_limits = [500_000, 100_000, 1_000]
    with ApiClient(target) as api:
        uploader = Uploader(api, target, "user_data", part_bytes=200_000)
        document = uploader.upload(LocalFile.from_path(home / "a.bin"), lambda _: None)
    assert proxy.cuts == 3
    assert storage(*DOWNLOAD, document["id"]).code == 0
    assert Path("a.bin").read_bytes() == content
    storage("storage", "files", "delete", document["id"])


def test_an_interrupted_upload_in_parts_is_completed_by_another_run(storage: Llma, target: Target, home: Path) -> None:
    content = hashlib.shake_256(b"again").digest(MIB)
    (home / "a.bin").write_bytes(content)

    def interrupt(sent: int) -> None:
        if sent > 700_000:
            raise KeyboardInterrupt

    with ApiClient(target) as api:
        uploader = Uploader(api, target, "user_data", part_bytes=200_000)
        with pytest.raises(KeyboardInterrupt):
            uploader.upload(LocalFile.from_path(home / "a.bin"), interrupt)
    sent: list[int] = []
    with ApiClient(target) as api:
        uploader = Uploader(api, target, "user_data", part_bytes=200_000)
        document = uploader.upload(LocalFile.from_path(home / "a.bin"), sent.append)
    assert sorted(sent)[:3] == [200_000, 400_000, 600_000]
    assert storage(*DOWNLOAD, document["id"], "--file", "copy").code == 0
    assert Path("copy").read_bytes() == content
    storage("storage", "files", "delete", document["id"])


VECTOR_STORES = ("storage", "vector-stores")


def test_a_vector_store_is_created_filled_listed_and_deleted(storage: Llma, home: Path) -> None:
    (home / "documents").mkdir()
    for name in ("a.md", "ü b.txt"):
        (home / "documents" / name).write_text(f"# {name}\n")
    line = ("--description", "D", "--metadata", "team=search", "--expires-after-days", "7", "-o", "json")
    store = storage(*VECTOR_STORES, "create", "handbook 1", *line).json
    assert (store["metadata"], store["expires_after"]["days"]) == ({"team": "search"}, 7)
    add = (*VECTOR_STORES, "add-files", "handbook 1", str(home / "documents"), "--no-wait", "-o", "json")
    first = storage(*add, "--attribute", "year=2026", "--chunk-tokens", "200").json["data"]
    assert [file["attributes"] for file in first] == [{"year": 2026}] * 2
    assert [file["chunking_strategy"]["static"]["chunk_overlap_tokens"] for file in first] == [100, 100]
    again = storage(*add).json["data"]
    assert [file["id"] for file in again] == [file["id"] for file in first]
    assert len(storage("storage", "files", "list", "-o", "json").json["data"]) == 2
    listed = storage(*VECTOR_STORES, "files", "handbook 1", "--status", "in_progress", "-o", "json").json["data"]
    assert {file["id"] for file in listed} == {file["id"] for file in first}
    assert storage(*VECTOR_STORES, "get", store["id"], "-o", "json").json["file_counts"]["in_progress"] == 2
    assert storage(*VECTOR_STORES, "delete-file", "handbook 1", "-f", first[0]["id"]).code == 0
    assert "handbook 1" in storage(*VECTOR_STORES, "list").out
    assert storage(*VECTOR_STORES, "delete", "handbook 1").code == 0
    assert storage(*VECTOR_STORES, "get", "handbook 1").code == 4
    for file in first:
        assert storage("storage", "files", "delete", file["id"]).code == 0


def test_an_installation_without_an_index_says_so(storage: Llma) -> None:
    assert storage(*VECTOR_STORES, "create", "no index").code == 0
    result = storage(*VECTOR_STORES, "rebuild", "no index")
    assert (result.code, result.out) == (5, "")
    assert "LLMARINER_MILVUS_URI" in result.err
    assert storage(*VECTOR_STORES, "delete", "no index").code == 0
