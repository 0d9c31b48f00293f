"""Figures by measure, subject and round, and what is said about those that are missing."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Results:
    """Rounds stay paired: figure number n of every subject was taken in the same minute."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, measure: str, subject: str, value: float) -> None:
        self.figures[measure][subject].append(value)

    def median(self, measure: str, subject: str) -> float | None:
        values = self.figures.get(measure, {}).get(subject)
        return statistics.median(values) if values else None

    def ratio(self, measure: str, above: str, below: str) -> float | None:
        """The median of the rounds' ratios: what slows one round slows both sides of it."""
        rows = self.figures.get(measure, {})
        pairs = zip(rows.get(above, []), rows.get(below, []), strict=False)
        ratios = [one / other for one, other in pairs if other]
        return statistics.median(ratios) if ratios else None

    def subjects(self, *measures: str) -> list[str]:
        """The subjects with a figure in one of the measures, in order of their first one."""
        return list(dict.fromkeys(subject for measure in measures for subject in self.figures.get(measure, {})))
