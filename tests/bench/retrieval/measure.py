"""Recall and nDCG of each way to search, on a running platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..environments import UnavailableError
from ..measures.model_wake import Service, running_platform
from ..results import Results
from ..run import Bounds, say
from .corpus import documents
from .metrics import ndcg, rank, recall
from .questions import Question, questions, reported
from .searches import MODES, search, store_of

__all__ = ["Ranks", "add_figures", "measure_retrieval", "ranks_of"]

Ranks = Mapping[str, Mapping[Question, int | None]]
"""By mode and question, the rank of the right passage."""


def ranks_of(service: Service, asked: Sequence[Question]) -> Ranks:
    """Ingest the documents and ask every question in every mode. UnavailableError if the platform can't."""
    say(f"ingesting the documents of {len(asked)} questions")
    with store_of(service, documents()) as store:
        say("searching")
        return {
            mode: {each: rank(search(service, store, each.text, mode), each.passages) for each in asked}
            for mode in MODES
        }


def add_figures(results: Results, ranks: Ranks) -> None:
    """The figures of all questions in `ranks`."""
    for mode, places in ranks.items():
        results.add("recall_at_5", mode, recall(list(places.values()), 5))
        results.add("ndcg_at_10", mode, ndcg(list(places.values()), 10))


def measure_retrieval(results: Results, _folder: Path, _bounds: Bounds) -> None:
    """Skipped, with the reason, when no platform runs."""
    try:
        add_figures(results, ranks_of(running_platform(), reported(questions())))
    except UnavailableError as reason:
        results.skipped["search quality"] = str(reason)
