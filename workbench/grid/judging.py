"""From cells to verdicts: rows with intervals, paired tests corrected by Holm, and who is tied with the best.

A method is *tied with the best* unless its paired difference to the best is significant among all pairs of its block
(Holm over all pairs: choosing the winner after the fact is then paid for). With one seed every method is tied: chance of
training has not been seen, so no winner is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.evaluation.statistics import holm
from workbench.grid.crossed import Crossed, common_floor, crossed, difference

ALPHA = 0.05


def scores(cells: Sequence[Mapping[str, Any]], text: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(scores (S, G), weights (G,)) of the judged cells of one row, seeds in order.

    Args:
        cells: final cells without failures.
        text: {groups, answers} of the test items of a classification; groups alone for text.
    """
    cells = sorted(cells, key=lambda cell: cell["seed"])
    if "chosen" not in cells[0]:
        weights = np.array(cells[0]["tokens"], float)
        return np.array([cell["nll"] for cell in cells], float), weights
    names = list(dict.fromkeys(text["groups"]))
    at = {name: index for index, name in enumerate(names)}
    index = np.array([at[group] for group in text["groups"]])
    right = np.array([np.array(cell["chosen"]) == np.array(text["answers"]) for cell in cells], float)
    summed = np.zeros((len(cells), len(names)))
    np.add.at(summed, (slice(None), index), right)
    return summed, np.bincount(index, minlength=len(names)).astype(float)


def judge(
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]], *, higher: bool, reference: str
) -> dict[str, dict[str, Any]]:
    """Judge the rows of one block.

    Args:
        measured: name → (scores (S, G), weights (G,)); the same documents for all.
        higher: whether more is better.
        reference: the row that the others are tested against.

    Returns:
        name → {value, low, high, items_low, items_high, seeds_low, seeds_high, n, seeds, tied, and against the reference
        difference, p, p_holm}.
    """
    found = {name: crossed(*pair) for name, pair in measured.items()}
    names = list(found)
    best = (max if higher else min)(names, key=lambda name: found[name].value)
    tests = pairs(measured)
    tied = {
        name: name == best or tests[frozenset((name, best))]["p_holm"] > ALPHA or found[best].runs == 1
        for name in names
    }
    against = [name for name in names if name != reference] if reference in found else []
    floor = common_floor(measured)
    to_reference = {
        name: difference(measured[name][0], measured[reference][0], measured[name][1], floor) for name in against
    }
    corrected = dict(zip(against, holm([to_reference[name].p for name in against]), strict=True)) if against else {}
    rows = {}
    for name, score in found.items():
        row = _plain(score) | {"tied": bool(tied[name])}
        if name in to_reference:
            test = to_reference[name]
            row |= {
                "difference": test.value, "difference_low": test.low, "difference_high": test.high, "p": test.p,
                "p_holm": float(corrected[name]),
            }  # fmt: skip
        rows[name] = row
    return rows


def pairs(measured: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[frozenset[str], dict[str, Any]]:
    """Every pair of a block: {difference (first minus second in the order of `measured`), p, p_holm, first}."""
    couples = list(itertools.combinations(measured, 2))
    floor = common_floor(measured)
    tests = [difference(measured[a][0], measured[b][0], measured[a][1], floor) for a, b in couples]
    corrected = holm([test.p for test in tests]) if tests else []
    return {
        frozenset(couple): {"first": couple[0], "difference": test.value, "p": test.p, "p_holm": float(p)}
        for couple, test, p in zip(couples, tests, corrected, strict=True)
    }


def verdicts(measured: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[frozenset[str], int]:
    """Every pair: +1 or −1 where the first is above or below the second, 0 where the pair is not separated."""
    return {
        pair: (int(np.sign(test["difference"])) if test["p_holm"] <= ALPHA else 0)
        for pair, test in pairs(measured).items()
    }


def _plain(score: Crossed) -> dict[str, Any]:
    return {
        "value": score.value, "low": score.low, "high": score.high, "items_low": score.items[0],
        "items_high": score.items[1], "seeds_low": score.seeds[0], "seeds_high": score.seeds[1], "n": score.groups,
        "seeds": score.runs,
    }  # fmt: skip
