"""Tuned models on a cluster: what their engines fetch from the platform, each with a token that is good for one model.

An engine's pod holds no credential of the store. Its token opens the two files of its adapter, as long as the model is
registered; it is the same at each wake, so that an engine is not changed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.errors import AuthenticationFailed, Conflict, ModelNotFound, NotFound
from llmariner.files.file import File
from llmariner.files.files import Files
from llmariner.fine_tuning.adapter_file import InvalidAdapter, adapter_configuration
from llmariner.fine_tuning.adapter_tokens import AUDIENCE
from llmariner.fine_tuning.file_locations import file_of
from llmariner.gateway.authentication.signed_tokens import NotSigned, SignedTokens
from llmariner.models.model import Model
from llmariner.models.registry import ModelRegistry
from llmariner.settings import Secret

__all__ = ["AdapterContent", "AdapterWeights"]


@dataclass(frozen=True)
class AdapterContent:
    """The file with the weights of an adapter."""

    size_bytes: int
    parts: Iterator[bytes]


class AdapterWeights:
    """The adapters of one installation. `secrets`: each of them verifies. `files` raises Unavailable without a store."""

    def __init__(self, registry: ModelRegistry, files: Callable[[], Files], secrets: Sequence[Secret]) -> None:
        self._registry = registry
        self._files = files
        self._tokens = SignedTokens([secret.reveal().encode() for secret in secrets], AUDIENCE)

    def is_signed(self, token: str) -> bool:
        """Whether the installation made a token, so that it is no guess."""
        return self._tokens.is_signed(token)

    def configuration(self, token: str) -> bytes:
        """The `adapter_config.json` of a token's model.

        Raises AuthenticationFailed for what is no token, NotFound where model or file is gone, Conflict for another file.
        """
        model, file = self._open(token)
        try:
            return adapter_configuration(self._files().read(file), model.base_name or "")
        except InvalidAdapter as error:
            raise Conflict(f"The file of the model is no adapter that engines load: {error}.") from error

    def read(self, token: str) -> AdapterContent:
        """The `adapter_model.safetensors` of a token's model. Raises as `configuration`."""
        _, file = self._open(token)
        return AdapterContent(file.size_bytes, self._files().read(file))

    def _open(self, token: str) -> tuple[Model, File]:
        claims = self._claims(token)
        try:
            model = self._registry.get(str(claims["model"]))
        except ModelNotFound as error:
            raise NotFound("The model of this token was deleted.") from error
        place = file_of(model.model_file_location, model.project_id or "")
        if model.created_at != claims["created"] or not model.approved or place is None:
            raise NotFound("The model of this token was deleted.")
        return model, self._files().get(*place)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return self._tokens.verified(token)
        except NotSigned:
            raise AuthenticationFailed("The token is not one of an adapter.") from None
