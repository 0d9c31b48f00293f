"""The order of examples: a function of the seed alone, so that a resumed job continues with the batch that was due."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["batches", "steps_of"]


def steps_of(examples: int, batch_size: int) -> int:
    """Steps of an epoch; the last one may have fewer examples."""
    return -(-examples // batch_size)


def batches(examples: int, batch_size: int, n_epochs: int, seed: int, *, after: int) -> Iterator[tuple[int, list[int]]]:
    """(Step from 1, indexes of its examples) of all steps later than `after`."""
    per_epoch = steps_of(examples, batch_size)
    for epoch in range(after // per_epoch, n_epochs):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(examples, generator=generator).tolist()
        for number in range(per_epoch):
            step = epoch * per_epoch + number + 1
            if step > after:
                yield step, order[number * batch_size : (number + 1) * batch_size]
