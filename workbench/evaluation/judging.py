"""Judge measured cells: who is tied with the best, and who differs from the reference.

Documents are the units: variants of one tokenizer are compared by Σ nll over the same tokens, others by bits per byte of
each document; choices by right answers per document. "Tied" is the model confidence set of `statistics.tied_with_best`;
against the reference each variant has a sign-flip test, corrected by Holm within a measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import UserError
from workbench.evaluation.statistics import holm, paired_permutation, tied_with_best

LEVEL = 0.05


def _losses(cells: Mapping[str, dict]) -> tuple[np.ndarray, list[str]]:
    """(variants, documents) loss of each document, weighted so that the row means are the compared totals."""
    tables = [pd.DataFrame(cell["documents"]).set_index("group") for cell in cells.values()]
    groups = [group for group in tables[0].index if all(group in table.index for table in tables)]
    if not groups:
        raise UserError("These cells were measured on different documents; compare variants on the same text.")
    tables = [table.loc[groups] for table in tables]
    same = len(groups) == len(tables[0]) and all(table["tokens"].equals(tables[0]["tokens"]) for table in tables)
    unit = "tokens" if same else "bytes"
    return np.stack([len(groups) * t["nll"].to_numpy(float) / t[unit].to_numpy(float).sum() for t in tables]), groups


def _answers(cells: Mapping[str, dict]) -> tuple[np.ndarray, list[str]]:
    """(variants, questions) right or wrong, and the document of each question."""
    tables = [pd.DataFrame(cell["items"]) for cell in cells.values()]
    if any(table[["item", "group", "answer"]].to_numpy().tolist() != tables[0][["item", "group", "answer"]].to_numpy().tolist()
           for table in tables):  # fmt: skip
        raise UserError(
            "These cells answer different questions; compare variants with the same seed and number of items."
        )
    return np.stack([table["correct"].to_numpy(float) for table in tables]), tables[0]["group"].tolist()


def judge(cells: Mapping[str, dict[str, Any]], *, level: float = LEVEL) -> list[dict[str, Any]]:
    """The rows of `cells`, each with perplexity_tied and accuracy_tied.

    Args:
        cells: name → {"row", "documents": [{group, nll, tokens, bytes}], "items": [{item, group, answer, correct}]}.
        level: chance of leaving out a variant that is as good as the best.

    Raises:
        UserError: cells of different documents or questions.
    """
    if not cells:
        return []
    losses, _ = _losses(cells)
    answers, groups = _answers(cells)
    by_loss = tied_with_best(losses, higher_is_better=False, level=level).tied
    by_answer = tied_with_best(answers, groups=groups, level=level).tied
    return [
        {**cell["row"], "name": name, "perplexity_tied": bool(loss), "accuracy_tied": bool(answer)}
        for (name, cell), loss, answer in zip(cells.items(), by_loss, by_answer, strict=True)
    ]


def paired_tests(cells: Mapping[str, dict[str, Any]], reference: str) -> list[dict[str, Any]]:
    """Each variant against `reference`: difference (nats per token, or per byte across tokenizers; share right), p, p_holm."""
    names, found = list(cells), []
    at = names.index(reference)
    losses, documents = _losses(cells)
    answers, groups = _answers(cells)
    for measure_, scores, units in (("loss", losses, documents), ("accuracy", answers, groups)):
        tests = {n: paired_permutation(scores[i], scores[at], groups=units) for i, n in enumerate(names) if i != at}
        corrected = holm([test.p for test in tests.values()]) if tests else []
        found += [
            {"name": name, "reference": reference, "measure": measure_, "difference": test.difference, "p": test.p,
             "p_holm": float(p), "units": test.units, "exact": test.exact}
            for (name, test), p in zip(tests.items(), corrected, strict=True)
        ]  # fmt: skip
    return found
