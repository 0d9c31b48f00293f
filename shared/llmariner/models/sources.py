"""The source of a model's files, by its repository and location."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from llmariner.models.model import Model, SourceRepository
from llmariner.models.source_credentials import SourceCredential
from llmariner.platform.model_files import FilesUnavailable, ModelSource
from llmariner.platform.model_files.hugging_face import HuggingFaceSource
from llmariner.platform.model_files.ollama import OllamaSource
from llmariner.settings import ModelSettings, S3Settings

__all__ = ["CredentialOf", "no_credential", "open_source"]

CredentialOf = Callable[[Model], SourceCredential | None]
"""The credential that a model refers to; None: the installation's. FilesUnavailable where it is gone."""


def no_credential(_model: Model) -> SourceCredential | None:
    """Of an installation whose projects have none."""
    return None


@contextlib.contextmanager
def open_source(
    model: Model, settings: ModelSettings, s3: S3Settings, credential_of: CredentialOf
) -> Iterator[ModelSource | None]:
    """The source that the model's repository and location name; None for any other place, such as a folder of this machine.

    FilesUnavailable.
    """
    location, private = model.model_file_location, settings.private_addresses
    own = credential_of(model)
    if model.source_repository is SourceRepository.OLLAMA:
        account = ("", "") if own is None else (own.username, own.secret.reveal())
        yield OllamaSource(location, endpoint=settings.ollama_registry, private_allowed=private, account=account)
    elif model.source_repository is SourceRepository.HUGGING_FACE or location.startswith("hf://"):
        if own is not None and model.source_repository is not SourceRepository.HUGGING_FACE:
            raise FilesUnavailable(
                "The model's credential is for a bucket, and its location is a repository of the hub. Delete the model, and "
                "create it with 'source_repository' HUGGING_FACE and a credential for that."
            )
        token = (settings.hub_token if own is None else own.secret).reveal()
        yield HuggingFaceSource(location, endpoint=settings.hub, token=token, private_allowed=private)
    elif location.startswith("s3://"):
        from llmariner.platform.model_files.s3 import S3Source

        if own is not None:  # at the same store, and without the role that the installation assumes
            s3 = replace(s3, access_key=own.username, secret_key=own.secret, role_arn="", external_id="")
        with contextlib.closing(S3Source(location, s3)) as source:
            yield source
    else:
        yield None
