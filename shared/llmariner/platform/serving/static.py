"""Serving adapter for engines that are run elsewhere and always ready at a fixed URL."""

from __future__ import annotations

import json
from collections.abc import Callable

from llmariner.errors import ModelNotFound
from llmariner.platform.serving import Phase, Status

__all__ = ["StaticServing"]

_CAPACITY = 256


class StaticServing:
    """Takes a JSON object, model id → base URL, as text. Raises ValueError for anything else."""

    def __init__(self, text: str) -> None:
        value = json.loads(text)
        if not isinstance(value, dict) or not all(isinstance(url, str) for url in value.values()):
            raise ValueError("LLMARINER_SERVING_STATIC must be a JSON object of model ids and URLs.")
        self._urls = {model: url.rstrip("/") for model, url in value.items()}

    async def status(self, model_id: str) -> Status:
        """Ready, for each configured model."""
        if model_id not in self._urls:
            raise ModelNotFound(model_id)
        return Status(Phase.READY, progress=1.0, endpoint=self._urls[model_id], capacity=_CAPACITY)

    async def statuses(self) -> dict[str, Status]:
        """Every configured model."""
        return {model: await self.status(model) for model in self._urls}

    async def wake(self, model_id: str) -> None:
        """No effect: the model is always awake."""
        await self.status(model_id)

    async def sleep(self, model_id: str) -> None:
        """No effect: the engine is run elsewhere."""
        await self.status(model_id)

    async def remove(self, model_id: str, folder: str) -> None:
        """No effect: the engine is run elsewhere."""

    async def import_existing(self, service: str) -> None:
        """No effect: there is no cluster."""

    async def reconcile(self) -> None:
        """No effect: this adapter starts nothing."""

    def subscribe(self, observer: Callable[[str, Status], None]) -> None:
        """No effect: phases never change."""

    async def close(self) -> None:
        """No effect: this adapter starts nothing."""
