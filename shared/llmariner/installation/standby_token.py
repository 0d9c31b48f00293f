"""Makes the word by which standby engines know who may give them a model.

They run in the models' namespace and the one who tells them in ours, and a Secret is read in its own namespace only: so
there are two of one value. Whoever may read Secrets where models run could start any pod there anyway.
"""

from __future__ import annotations

from llmariner.installation.retry import Waiting
from llmariner.installation.secret_objects import SecretObjects
from llmariner.settings import SecretSettings

__all__ = ["make"]

_NAME = "llmariner-standby"


def make(ours: SecretObjects, models: SecretObjects) -> list[str]:
    """Make what is missing; returns what was done, no value in it. Two at once end with the same word.

    Waiting where somebody else's Secret in the models' namespace says another.
    """
    done = []
    if ours.get(_NAME) is None and ours.create(_NAME, {"STANDBY_TOKEN": SecretSettings.generate()}):
        done.append(f"{_NAME} made.")
    word = ours.get(_NAME)
    if word is None:
        raise Waiting(f"The Secret {_NAME} was deleted as it was read.")
    copy = models.get(_NAME)
    if copy is None and models.create(_NAME, word.values):
        done.append(f"{_NAME} made for the models.")
    elif copy is not None and copy.values != word.values:
        if not copy.ours:
            raise Waiting(
                f"The Secret {_NAME} of the models' namespace says another word than ours: make them the same."
            )
        models.replace(_NAME, word.values)
        done.append(f"{_NAME} of the models follows ours; restart the standby engines.")
    return done or ["The token is there."]
