"""Creates the token by which standby engines authenticate the function that assigns models to them.

Engines and functions run in different namespaces and a pod reads Secrets of its own namespace only, so the token is in
two Secrets. Read access to Secrets in the models' namespace gives no more than the right to start any pod there.
"""

from __future__ import annotations

from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.settings import SecretSettings

__all__ = ["ensure_token"]

_SECRET = "llmariner-standby"


def ensure_token(platform_secrets: SecretObjects, model_secrets: SecretObjects) -> list[str]:
    """Create what is missing; returns log lines without values. Concurrent runs end with the same token.

    RetryLater where an administrator's Secret in the models' namespace holds another token.
    """
    messages = []
    if platform_secrets.get(_SECRET) is None and platform_secrets.create(
        _SECRET, {"STANDBY_TOKEN": SecretSettings.generate()}
    ):
        messages.append(f"{_SECRET} made.")
    token = platform_secrets.get(_SECRET)
    if token is None:
        raise RetryLater(f"The Secret {_SECRET} was deleted as it was read.")
    model_token = model_secrets.get(_SECRET)
    if model_token is None and model_secrets.create(_SECRET, token.values):
        messages.append(f"{_SECRET} made for the models.")
    elif model_token is not None and model_token.values != token.values:
        if not model_token.is_managed:
            raise RetryLater(
                f"The Secret {_SECRET} of the models' namespace says another word than ours: make them the same."
            )
        model_secrets.replace(_SECRET, token.values)
        messages.append(f"{_SECRET} of the models follows ours; restart the standby engines.")
    return messages or ["The token is there."]
