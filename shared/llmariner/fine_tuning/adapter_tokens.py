"""The tokens of tuned models, which `adapter_weights` opens. The function that serves models imports this alone."""

from __future__ import annotations

from llmariner.gateway.authentication.signed_tokens import sign
from llmariner.models.model import Model
from llmariner.platform.serving import OWN_FILE_SCHEME
from llmariner.settings import Secret

__all__ = ["AUDIENCE", "adapter_token"]

AUDIENCE = "adapter"


def adapter_token(secret: Secret, model: Model) -> str:
    """The token of a model whose adapter is a file of the platform; empty for another model."""
    if not model.approved or not model.folder.startswith(OWN_FILE_SCHEME):
        return ""
    claims = {"aud": AUDIENCE, "model": model.id, "created": model.created_at}
    return sign(claims, secret.reveal().encode())
