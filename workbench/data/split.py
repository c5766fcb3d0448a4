"""Split by document: a group is in one part only, and the same seed gives the same parts however the rows are ordered.

Every group gets the key blake2b(seed, group); groups are sorted by it, and the first n·test of them are the test part,
the next n·evaluation the evaluation part, the rest is learned from. For classification this is done label by label (the
label that most rows of a group carry), so that each label keeps its share and none is missing from the training part.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

from workbench.data.examples import Examples
from workbench.errors import UserError

PARTS = ("train", "eval", "test")


def order(groups: list[str], seed: int) -> list[str]:
    """Groups in the pseudo-random order of a seed; it depends on the names alone, not on their order."""
    return sorted(
        groups, key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode("utf-8", "surrogatepass")).digest()
    )


def split(examples: Examples, *, evaluation: float = 0.1, test: float = 0.1, seed: int = 0) -> dict[str, Examples]:
    """Cut a set into "train", "eval" and "test" along its groups.

    Args:
        examples: checked rows.
        evaluation: share of the groups (0–1) that steers training: curves, early stopping, the best checkpoint.
        test: share of the groups that is looked at once, at the end.
        seed: which split.

    Returns:
        The three parts; a part whose share is 0 has no rows. A part with a share has at least one group.

    Raises:
        UserError: shares out of range, or fewer groups than parts.
    """
    for name, share in (("evaluation", evaluation), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"The {name} share is {share}; give a number from 0 to below 1.")
    if evaluation + test >= 1:
        raise UserError(
            f"Evaluation {evaluation} and test {test} leave nothing to train on; their sum must be below 1."
        )
    need = 1 + (evaluation > 0) + (test > 0)
    groups = examples.groups()
    if len(groups) < need:
        raise UserError(
            f"{examples.source} has {len(groups)} document{'s' if len(groups) != 1 else ''}, but {need} parts need at "
            f"least {need}; add documents, set a share to 0, or name a finer group column."
        )
    strata: dict[str, list[str]] = defaultdict(list)
    for group, label in _label_of_group(examples).items():
        strata[label].append(group)
    part_of: dict[str, str] = {}
    for label in sorted(strata):
        part_of.update(_assign(order(strata[label], seed), evaluation, test))
    _fill_empty(part_of, order(groups, seed), [p for p, s in (("eval", evaluation), ("test", test)) if s])
    return {part: examples.with_rows([row for row in examples.rows if part_of[row["group"]] == part]) for part in PARTS}


def _label_of_group(examples: Examples) -> dict[str, str]:
    """The most frequent label of each group (on a tie the first in the alphabet); "" where there are no labels."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in examples.rows:
        counts[row["group"]][row.get("label", "")] += 1
    return {group: min(found, key=lambda label: (-found[label], label)) for group, found in counts.items()}


def _assign(groups: list[str], evaluation: float, test: float) -> dict[str, str]:
    """Parts of one stratum; training keeps at least one group."""
    n_test = min(round(len(groups) * test), len(groups) - 1)
    n_eval = min(round(len(groups) * evaluation), len(groups) - 1 - n_test)
    names = ["test"] * n_test + ["eval"] * n_eval
    return dict(zip(groups, names + ["train"] * (len(groups) - len(names)), strict=True))


def _fill_empty(part_of: dict[str, str], groups: list[str], wanted: list[str]) -> None:
    """Give a wanted part that rounding left empty one group from the part that has most."""
    for part in wanted:
        if part not in part_of.values():
            largest = max(PARTS, key=lambda p: sum(found == p for found in part_of.values()))
            part_of[next(group for group in groups if part_of[group] == largest)] = part
