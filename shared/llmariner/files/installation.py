"""The files of an installation, their store, and the objects outside it that projects may make files of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.file_settings import FileSettings
from llmariner.files.external_objects import ExternalObjects, without_buckets
from llmariner.platform.objects import ObjectStore
from llmariner.settings import ObjectSettings

if TYPE_CHECKING:
    from llmariner.context import Context
    from llmariner.files.files import Files

__all__ = ["external_objects", "make_files", "object_store"]


def object_store(env: Environment) -> ObjectStore:
    """The store of `LLMARINER_OBJECTS`. Raises ValueError where none is set."""
    settings = ObjectSettings.load(env)
    if settings.adapter == "s3":
        from llmariner.platform.objects.s3 import S3Objects

        return S3Objects(settings.s3)
    if not settings.folder:
        raise ValueError("Files need a store: set LLMARINER_OBJECTS=s3 and its bucket, or LLMARINER_OBJECTS_FOLDER.")
    from llmariner.platform.objects.folder import FolderObjects

    return FolderObjects(Path(settings.folder))


def external_objects(env: Environment, objects: Callable[[], ObjectStore]) -> ExternalObjects:
    """Those of `LLMARINER_FILE_LOCATIONS`, in S3 where the store `objects` is, which is asked for then alone."""
    locations, settings = FileSettings.load(env).locations, ObjectSettings.load(env)
    if settings.adapter != "s3" or not locations:
        return ExternalObjects(locations, without_buckets)
    from llmariner.platform.objects.s3 import S3Objects

    own = f"s3://{settings.s3.bucket}/{settings.s3.prefix}"
    store = objects()
    assert isinstance(store, S3Objects)
    return ExternalObjects(locations, store.other_bucket, reserved=own)


def make_files(context: Context) -> Files:
    """The files of projects. Raises Unavailable in an installation without a store for them."""
    from llmariner.batch_jobs.references import BatchJobReferences
    from llmariner.files.files import Files
    from llmariner.fine_tuning.references import FineTuningReferences
    from llmariner.vector_stores.removals import VectorStoreReferences

    if not ObjectSettings.load(context.env).is_configured:
        raise Unavailable(
            "This installation has no store for files: an operator sets one with LLMARINER_OBJECTS.",
            code="no_object_store",
            headers={"x-should-retry": "false"},
        )
    references = (VectorStoreReferences(), BatchJobReferences(), FineTuningReferences())
    return Files(
        context.database, context.objects, FileSettings.load(context.env), references, context.external_objects
    )
