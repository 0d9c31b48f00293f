"""Files of objects outside the store: who may name which, without a copy, and objects that change or go."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from llmariner.errors import InsufficientQuota, InvalidRequest, NotFound, Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files.external_objects import ExternalObjects, without_buckets
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.files.tables import file_usage
from llmariner.platform.database import Database
from llmariner.platform.objects.folder import FolderObjects
from llmariner.tenancy.keys.store import KeyOwner

from ..team import Team

LOCATIONS = ("s3://shared/", "s3://tenants/${project_id}/", "s3://platform/")


@pytest.fixture
def bucket(tmp_path: Path) -> FolderObjects:
    """The bucket `shared`."""
    return FolderObjects(tmp_path / "shared")


@pytest.fixture
def store(database: Database, tmp_path: Path) -> Files:
    external = ExternalObjects(LOCATIONS, lambda name: FolderObjects(tmp_path / name), reserved="s3://platform/own/")
    return Files(database, FolderObjects(tmp_path / "objects"), FileSettings(project_files=3), external=external)


def put(objects: FolderObjects, key: str, data: bytes) -> None:
    with objects.writer(key) as writer:
        writer.write(data)
        writer.commit()


def test_a_file_of_an_object_is_no_copy(
    store: Files, bucket: FolderObjects, owner: KeyOwner, team: Team, tmp_path: Path, database: Database
) -> None:
    put(bucket, "data/train.jsonl", b"0123456789")
    file = store.link(owner, Purpose.FINE_TUNE, "s3://shared/data/train.jsonl")
    assert (file.filename, file.size_bytes, file.object_path) == ("train.jsonl", 10, "s3://shared/data/train.jsonl")
    assert b"".join(store.read(file, 2, 3)) == b"234"
    with database.read() as session:
        [usage] = session.rows(select(file_usage))
    assert (usage.files, usage.bytes) == (1, 0)
    assert not list((tmp_path / "objects").rglob("*"))
    store.delete(team.admin, file.id)
    assert bucket.info("data/train.jsonl") is not None
    with database.read() as session:
        [usage] = session.rows(select(file_usage))
    assert (usage.files, usage.bytes) == (0, 0)


def test_an_object_that_changes_is_another_version(store: Files, bucket: FolderObjects, owner: KeyOwner) -> None:
    put(bucket, "a.txt", b"1")
    file = store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")
    before = store.version(file)
    put(bucket, "a.txt", b"22")
    size, version = store.version(file)
    assert size == 2
    assert version != before[1]
    bucket.delete(["a.txt"])
    with pytest.raises(NotFound):
        store.version(file)
    with pytest.raises(NotFound):
        store.read(file)


def test_bytes_of_another_version_are_not_read(store: Files, bucket: FolderObjects, owner: KeyOwner) -> None:
    put(bucket, "a.txt", b"123")
    file = store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")
    _, version = store.version(file)
    assert b"".join(store.read(file, 1, version=version)) == b"23"
    put(bucket, "a.txt", b"456")
    assert store.version(file)[1] != version
    with pytest.raises(Unavailable):
        store.read(file, 1, version=version)


@pytest.mark.parametrize(
    "external",
    [
        ExternalObjects(("s3://tenants/",), without_buckets),
        ExternalObjects(LOCATIONS, without_buckets, reserved="s3://shared/a"),
    ],
    ids=["another place", "the platform's own"],
)
def test_an_object_is_not_read_once_its_place_is_revoked(
    external: ExternalObjects, store: Files, bucket: FolderObjects, owner: KeyOwner, database: Database, tmp_path: Path
) -> None:
    put(bucket, "a.txt", b"1")
    file = store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")
    after = Files(database, FolderObjects(tmp_path / "objects"), FileSettings(), external=external)
    for read in (after.version, after.read):
        with pytest.raises(NotFound, match="may not read any more") as error:
            read(file)
        assert error.value.code == "location_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "shared/a.txt",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://shared/a.txt",
        "s3://",
        "s3://shared",
        "s3://shared/",
        "s3://shared/../objects/x",
        "s3://shared/a.txt?versionId=1",
        "s3://shared/%2e%2e/x",
        "s3://sharedother/a.txt",
        "s3://user@shared/a.txt",
        "s3://tenants/proj_2/a.txt",
        "s3://tenants/${project_id}/a.txt",
        "s3://platform/own/files/content_1",
        "s3://shared/" + "a" * 2000,
        "s3://shared/a\0.txt",
        "s3://shared/.hidden",
    ],
)
def test_another_path_is_refused(path: str, store: Files, bucket: FolderObjects, owner: KeyOwner) -> None:
    put(bucket, "a.txt", b"1")
    with pytest.raises(InvalidRequest) as error:
        store.link(owner, Purpose.USER_DATA, path)
    assert error.value.param == "object_path"
    assert len(error.value.message) < 600


def test_a_project_names_its_own_place(store: Files, owner: KeyOwner, tmp_path: Path) -> None:
    put(FolderObjects(tmp_path / "tenants"), f"{owner.project_id}/a.txt", b"1")
    assert store.link(owner, Purpose.USER_DATA, f"s3://tenants/{owner.project_id}/a.txt").size_bytes == 1


def test_a_missing_object_is_refused(store: Files, owner: KeyOwner) -> None:
    with pytest.raises(InvalidRequest, match="There is no object") as error:
        store.link(owner, Purpose.USER_DATA, "s3://shared/missing.txt")
    assert error.value.code == "object_not_found"


def test_files_of_objects_count_as_files(store: Files, bucket: FolderObjects, owner: KeyOwner) -> None:
    put(bucket, "a.txt", b"1")
    for _ in range(3):
        store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")
    with pytest.raises(InsufficientQuota):
        store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")


def test_without_a_location_every_path_is_refused(database: Database, tmp_path: Path, owner: KeyOwner) -> None:
    store = Files(database, FolderObjects(tmp_path), FileSettings())
    with pytest.raises(InvalidRequest, match="LLMARINER_FILE_LOCATIONS"):
        store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")


def test_a_store_without_credentials_is_unavailable(database: Database, tmp_path: Path, owner: KeyOwner) -> None:
    external = ExternalObjects(LOCATIONS, without_buckets)
    store = Files(database, FolderObjects(tmp_path), FileSettings(), external=external)
    with pytest.raises(Unavailable):
        store.link(owner, Purpose.USER_DATA, "s3://shared/a.txt")
