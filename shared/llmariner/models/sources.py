"""The source of a model's files, by its repository and location."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from llmariner.models.model import Model, SourceRepository
from llmariner.platform.model_files import ModelSource
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ollama import OllamaSource
from llmariner.settings import ModelSettings, S3Settings

__all__ = ["open_source"]


@contextlib.contextmanager
def open_source(model: Model, settings: ModelSettings, s3: S3Settings) -> Iterator[ModelSource | None]:
    """The source that the model's repository and location name; None for any other place, such as a folder of this machine.

    FilesUnavailable.
    """
    location, private = model.model_file_location, settings.private_addresses
    if model.source_repository is SourceRepository.OLLAMA:
        yield OllamaSource(location, endpoint=settings.ollama_registry, private_allowed=private)
    elif model.source_repository is SourceRepository.HUGGING_FACE or location.startswith("hf://"):
        token = settings.hub_token.reveal()
        yield HuggingFaceSource(location, endpoint=settings.hub, token=token, private_allowed=private)
    elif location.startswith("s3://"):
        from llmariner.platform.model_files.s3 import S3Source

        with contextlib.closing(S3Source(location, s3)) as source:
            yield source
    else:
        yield None
