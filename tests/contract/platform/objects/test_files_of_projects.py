"""Files of projects on every adapter of the objects port, and files of objects in another bucket of S3."""

from __future__ import annotations

import os
import uuid
from typing import Any

import pytest

from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound
from llmariner.file_settings import FileSettings
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.purposes import Purpose
from llmariner.object_settings import S3Settings
from llmariner.platform.database import Database
from llmariner.platform.objects import ObjectStore
from llmariner.tenancy.keys.store import KeyOwner

from ...team import Team

MIB = 1 << 20


def put(files: Files, owner: KeyOwner, data: bytes, name: str = "a.bin") -> File:
    with files.receive(owner, purpose=None, size_bytes=len(data), limit_bytes=len(data)) as content:
        for at in range(0, len(data), MIB):
            content.write(data[at : at + MIB])
        return files.save(owner, NewFile(name, Purpose.USER_DATA, "application/octet-stream"), content)


@pytest.mark.parametrize("size", [0, 7, 20 * MIB + 7])
def test_a_file_is_stored_once_read_in_part_and_leaves_nothing(
    size: int, store: ObjectStore, database: Database, owner: KeyOwner, team: Team
) -> None:
    files, data = Files(database, store, FileSettings()), os.urandom(size)
    first, second = put(files, owner, data), put(files, owner, data, "b.bin")
    assert [info.key for info in store.list("")] == [first.content_key] == [second.content_key]
    files.delete(team.admin, first.id)
    assert b"".join(files.read(second)) == data
    assert b"".join(files.read(second, size // 2, 5)) == data[size // 2 :][:5]
    files.delete(team.admin, second.id)
    assert list(store.list("")) == []


@pytest.fixture
def context(settings: S3Settings, client: Any, database: Database) -> Context:
    """Of an installation whose projects may name objects of the bucket `data`, and even of the platform's own bucket."""
    if "data" not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket="data")
    context = Context(
        {
            "LLMARINER_OBJECTS": "s3",
            "LLMARINER_S3_BUCKET": settings.bucket,
            "LLMARINER_S3_PREFIX": settings.prefix,
            "LLMARINER_S3_ENDPOINT": settings.endpoint,
            "LLMARINER_S3_ACCESS_KEY": settings.access_key,
            "LLMARINER_S3_SECRET_KEY": settings.secret_key.reveal(),
            "LLMARINER_FILE_LOCATIONS": f"s3://data/${{project_id}}/, s3://{settings.bucket}/",
        }
    )
    context.database = database
    return context


def test_a_file_of_an_object_in_another_bucket(
    context: Context, client: Any, settings: S3Settings, owner: KeyOwner
) -> None:
    key = f"{owner.project_id}/{uuid.uuid4().hex}.jsonl"
    client.put_object(Bucket="data", Key=key, Body=b"0123456789")
    file = context.files.link(owner, Purpose.FINE_TUNE, f"s3://data/{key}")
    assert (file.size_bytes, file.object_path) == (10, f"s3://data/{key}")
    assert b"".join(context.files.read(file, 2, 3)) == b"234"
    client.delete_object(Bucket="data", Key=key)
    with pytest.raises(NotFound):
        context.files.version(file)
    with pytest.raises(InvalidRequest, match="There is no object"):
        context.files.link(owner, Purpose.FINE_TUNE, f"s3://data/{key}")
    with pytest.raises(InvalidRequest, match="not where a project may make files of"):
        context.files.link(owner, Purpose.FINE_TUNE, "s3://data/proj_other/x.jsonl")


def test_the_objects_of_the_platform_are_nobodys_to_name(
    context: Context, settings: S3Settings, owner: KeyOwner
) -> None:
    file = put(context.files, owner, b"of the platform")
    with pytest.raises(InvalidRequest, match="belongs to the platform"):
        context.files.link(owner, Purpose.EVALS, f"s3://{settings.bucket}/{settings.prefix}{file.content_key}")


def test_a_bucket_that_does_not_exist_has_no_objects(context: Context, owner: KeyOwner) -> None:
    context.env["LLMARINER_FILE_LOCATIONS"] = "s3://nowhere/"  # type: ignore[index]
    with pytest.raises(InvalidRequest, match="There is no object"):
        context.files.link(owner, Purpose.EVALS, "s3://nowhere/x")
