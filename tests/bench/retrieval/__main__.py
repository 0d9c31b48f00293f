"""`python -m tests.bench.retrieval`: how well searches of a running platform find known passages, with a plot."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..measures.model_wake import running_platform
from ..report import render
from ..results import Results
from .measure import Ranks, add_figures, ranks_of
from .metrics import ndcg, recall
from .plot import plot
from .questions import KINDS, Question, questions, reported
from .searches import MODES


def only(ranks: Ranks, chosen: Sequence[Question]) -> Ranks:
    """The ranks of some questions."""
    return {mode: {each: places[each] for each in chosen} for mode, places in ranks.items()}


def rows(ranks: Ranks, asked: list[Question]) -> Iterator[str]:
    """Rows of a Markdown table: groups of questions, with recall@5 and nDCG@10 of each mode."""
    kept = reported(asked)
    tuned = [each for each in asked if each not in kept]
    groups = {"reported": kept, "chosen by": tuned, **{kind: [q for q in kept if q.kind == kind] for kind in KINDS}}
    yield f"| questions | | {' | '.join(MODES)} |"
    yield f"|---|---|{'---|' * len(MODES)}"
    for name, group in groups.items():
        found = [list(places.values()) for places in only(ranks, group).values()]
        cells = " | ".join(f"{recall(each, 5):.3f} / {ndcg(each, 10):.3f}" for each in found)
        yield f"| {name} | {len(group)} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.retrieval", description=__doc__)
    parser.add_argument("--plot", type=Path, help="an SVG file to write")
    options = parser.parse_args()
    asked = questions()
    ranks = ranks_of(running_platform(), asked)
    kept = only(ranks, reported(asked))
    results = Results()
    add_figures(results, kept)
    print("\n".join(rows(ranks, asked)), render(results), sep="\n\n")
    if options.plot:
        options.plot.write_text(plot(kept))


if __name__ == "__main__":
    main()
