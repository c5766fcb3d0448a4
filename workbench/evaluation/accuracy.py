"""Share of right answers with its interval; every answer is kept.

The interval resamples documents when the questions come from several (percentiles, widened for few). When they come from
one, or all answers are right or all wrong, resampling shows nothing, and the Wilson interval over questions is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from scipy import stats

from workbench.evaluation.statistics import bootstrap_mean


@dataclass(frozen=True)
class Accuracy:
    """Accuracy with its interval.

    Attributes:
        value, low, high: share right, 0–1, and the interval at `level`.
        chance: share right without reading: 1/choices on average, or the share of the most frequent label.
        items: one row per question: item, group, correct, chosen, answer, margin (score of the right answer minus the
            best wrong one; right means above 0, a tie is wrong).
        level: of the interval.
    """

    value: float
    low: float
    high: float
    chance: float
    items: pd.DataFrame
    level: float = 0.95


def accuracy(items: pd.DataFrame, chance: float, level: float = 0.95) -> Accuracy:
    """Summarise answers (columns of `Accuracy.items`)."""
    correct = items["correct"].to_numpy(float)
    groups = items["group"].tolist()
    if len(set(groups)) > 1 and 0 < correct.sum() < len(correct):
        found = bootstrap_mean(correct, groups=groups, level=level, method="percentile", widen=True)
        low, high = found.low, found.high
    else:
        low, high = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(level, method="wilson")
    return Accuracy(float(correct.mean()), float(low), float(high), chance, items, level)
