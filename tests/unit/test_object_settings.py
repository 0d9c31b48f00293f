"""Settings of the store of objects: what each needs, and what excludes another."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmariner.context import Context
from llmariner.platform.objects.folder import FolderObjects
from llmariner.platform.objects.s3 import S3Objects
from llmariner.settings import ObjectSettings, S3Settings, Secret

S3 = {"LLMARINER_OBJECTS": "s3", "LLMARINER_S3_BUCKET": "files"}
KEYS = {"LLMARINER_S3_ACCESS_KEY": "access", "LLMARINER_S3_SECRET_KEY": "secret"}


def test_empty_variables_count_as_not_set() -> None:
    assert ObjectSettings.load({"LLMARINER_OBJECTS": "", "LLMARINER_S3_REGION": ""}) == ObjectSettings()


def test_the_settings_of_s3_are_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    loaded = ObjectSettings.load(
        {
            **S3,
            "LLMARINER_S3_ENDPOINT": "https://s3.example.org/",
            "LLMARINER_S3_ACCESS_KEY": "access",
            "LLMARINER_S3_SECRET_KEY_FILE": str(tmp_path / "key"),
            "LLMARINER_S3_PART_BYTES": str(6 << 20),
        }
    )
    assert loaded.s3 == S3Settings(
        bucket="files",
        endpoint="https://s3.example.org",
        access_key="access",
        secret_key=Secret("secret"),
        part_bytes=6 << 20,
    )
    assert "secret" not in repr(loaded).replace("secret_key", "")


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"LLMARINER_OBJECTS": "gcs"}, "LLMARINER_OBJECTS"),
        ({"LLMARINER_OBJECTS": "s3"}, "LLMARINER_S3_BUCKET"),
        ({"LLMARINER_S3_ENDPOINT": "s3.example.org"}, "LLMARINER_S3_ENDPOINT"),
        ({"LLMARINER_S3_PUBLIC_ENDPOINT": "ftp://x"}, "LLMARINER_S3_PUBLIC_ENDPOINT"),
        ({"LLMARINER_S3_PRESIGNED_SECONDS": "3601"}, "LLMARINER_S3_PRESIGNED_SECONDS"),
        ({"LLMARINER_S3_PRESIGNED_SECONDS": "-1"}, "LLMARINER_S3_PRESIGNED_SECONDS"),
        ({"LLMARINER_S3_STS_ENDPOINT": "x"}, "LLMARINER_S3_STS_ENDPOINT"),
        ({"LLMARINER_S3_ADDRESSING": "host"}, "LLMARINER_S3_ADDRESSING"),
        ({"LLMARINER_S3_CHECKSUMS": "never"}, "LLMARINER_S3_CHECKSUMS"),
        ({"LLMARINER_S3_ENCRYPTION": "aes"}, "LLMARINER_S3_ENCRYPTION"),
        ({"LLMARINER_S3_KMS_KEY": "key"}, "LLMARINER_S3_KMS_KEY"),
        ({"LLMARINER_S3_KMS_KEY": "key", "LLMARINER_S3_ENCRYPTION": "AES256"}, "LLMARINER_S3_KMS_KEY"),
        ({"LLMARINER_S3_ACCESS_KEY": "access"}, "LLMARINER_S3_SECRET_KEY"),
        ({"LLMARINER_S3_SECRET_KEY": "secret"}, "LLMARINER_S3_ACCESS_KEY"),
        ({"LLMARINER_S3_EXTERNAL_ID": "id"}, "LLMARINER_S3_EXTERNAL_ID"),
        ({"LLMARINER_S3_CA_FILE": "/x", "LLMARINER_S3_INSECURE_TLS": "1"}, "LLMARINER_S3_CA_FILE"),
        ({"LLMARINER_S3_PART_BYTES": str((5 << 20) - 1)}, "LLMARINER_S3_PART_BYTES"),
        ({"LLMARINER_S3_PART_BYTES": "many"}, "LLMARINER_S3_PART_BYTES"),
        ({"LLMARINER_S3_PARALLEL_PARTS": "0"}, "LLMARINER_S3_PARALLEL_PARTS"),
    ],
)
def test_an_invalid_value_is_named(env: dict[str, str], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        ObjectSettings.load(env)


def test_the_settings_choose_the_adapter(tmp_path: Path) -> None:
    assert isinstance(Context({"LLMARINER_OBJECTS_FOLDER": str(tmp_path)}).objects, FolderObjects)
    assert isinstance(Context({**S3, **KEYS, "LLMARINER_OBJECTS_FOLDER": str(tmp_path)}).objects, S3Objects)


def test_files_need_a_store() -> None:
    with pytest.raises(ValueError, match="LLMARINER_OBJECTS_FOLDER"):
        assert Context({}).objects


def test_a_missing_file_of_authorities_is_named() -> None:
    with pytest.raises(ValueError, match="LLMARINER_S3_CA_FILE"):
        assert Context({**S3, **KEYS, "LLMARINER_S3_CA_FILE": "/no/such/file"}).objects
