"""The workers of one training: each has a share of every batch, and all have the same gradients after it.

A worker finds the others by variables of PyTorch: `MASTER_ADDR`, `MASTER_PORT`, `RANK`, `WORLD_SIZE`. torchrun sets them,
and `local_workers` for those of one machine. The first worker alone reports and uploads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

__all__ = ["WorkerGroup", "WorkerLost"]

Item = TypeVar("Item")
_BUCKET_BYTES = 32 << 20
"""Of gradients that are summed at once: a copy of all would need as much memory as the weights."""
_TIMEOUT = timedelta(minutes=30)
"""For a worker that no longer answers, such as of a lost node: the first one may wait ten minutes for the platform."""


class WorkerLost(Exception):
    """Another worker ended, so this one can't continue. The training continues from its last state with a new group."""


class WorkerGroup:
    """`rank`: the number of this worker, from 0; `size`: how many there are.

    Torch takes seconds to import, and a group of one does without.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def join(cls) -> WorkerGroup:
        """The group of this process's environment. Raises WorkerLost where it does not come together."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        from torch import distributed

        with _errors():
            distributed.init_process_group("gloo", timeout=_TIMEOUT)
        return cls(distributed.get_rank(), size)

    def leave(self) -> None:
        """End the group's connections."""
        if self.size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this worker speaks for the group."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[tuple[int, Item]]:
        """This worker's part of items, each with its index."""
        return [(index, items[index]) for index in range(self.rank, len(items), self.size)]

    def sum(self, values: Iterable[float]) -> list[float]:
        """The sums of all workers' values."""
        if self.size == 1:
            return list(values)
        import torch
        from torch import distributed

        total = torch.tensor(list(values), dtype=torch.float64)
        with _errors():
            distributed.all_reduce(total)
        return [float(each) for each in total]

    def any(self, fact: bool) -> bool:
        """Whether it is so for one worker at least."""
        return self.sum([float(fact)])[0] > 0

    def add_gradients(self, parameters: Sequence[Any]) -> None:
        """Give every parameter the sum of all workers' gradients."""
        if self.size == 1:
            return
        import torch

        for each in parameters:
            if each.grad is None:  # a worker without an example in the last batch of an epoch
                each.grad = torch.zeros_like(each)
        for bucket in _buckets([each.grad for each in parameters]):
            _add_together(bucket)

    def share_document(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """The first worker's JSON object, for all; the others give None."""
        if self.size == 1:
            assert document is not None
            return document
        import torch
        from torch import distributed

        content = b"" if document is None else json.dumps(document).encode()
        [length] = self.sum([len(content)])
        parts = torch.zeros(int(length), dtype=torch.uint8)
        if content:
            parts.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        with _errors():
            distributed.broadcast(parts, src=0)
        return dict(json.loads(bytes(parts.tolist())))


def _buckets(gradients: Sequence[Any]) -> Iterator[list[Any]]:
    """Them all in order, in groups of about `_BUCKET_BYTES`. They are the same for all workers."""
    bucket: list[Any] = []
    size = 0
    for each in gradients:
        if bucket and size + each.nbytes > _BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(each)
        size += each.nbytes
    if bucket:
        yield bucket


def _add_together(gradients: Sequence[Any]) -> None:
    """Give each tensor the sum of all workers' ones."""
    import torch
    from torch import distributed

    together = torch.cat([each.reshape(-1) for each in gradients])
    with _errors():
        distributed.all_reduce(together)
    start = 0
    for each in gradients:
        each.copy_(together[start : start + each.numel()].view_as(each))
        start += each.numel()


@contextmanager
def _errors() -> Iterator[None]:
    """Torch tells a closed connection by RuntimeError, as much else."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(str(error)[:300]) from error
