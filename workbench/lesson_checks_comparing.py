"""Checkers of the exercises of lesson 07, comparing fairly. Like `workbench.lessons`: a hint, never the answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.lessons import Check


def check_half_width(points: Any) -> Check:
    """Exercise 1: half the 95 % interval, in points, of an accuracy of 0.5 on 1319 questions.

    Args:
        points: the answer, in percent points.
    """
    if isinstance(points, bool) or not isinstance(points, int | float):
        return Check(False, f"`points` is {points!r}; put a number there.")
    one = 100 * math.sqrt(0.25 / 1319)
    right = 1.96 * one
    if abs(points - right) < 0.06:
        return Check(True, "right. A table whose rows lie closer than that shows the questions, not the methods.")
    for value, hint in (
        (right / 100, "right as a share; the question asks for percent points."),
        (one, "that is one standard deviation; 95 percent of draws reach further."),
        (2 * right, "that is the whole interval from end to end; half of it is asked for."),
        (100 * 0.25 / 1319, "that is the variance; take its root."),
        (1.96 * 100 * math.sqrt(0.5 / 1319), "p (1 − p) is smaller than p."),
    ):
        if abs(points - value) < 0.02 * value + 1e-9:
            return Check(False, hint)
    return Check(False, "off; a share p of n questions varies by the root of p (1 − p) / n.")


def check_holm(answer: Callable[..., Any]) -> Check:
    """Exercise 2: Holm's correction of several p-values.

    Args:
        answer: takes a list of p-values and returns the corrected ones in the same order.
    """
    from workbench.evaluation.statistics import holm

    given = [[0.01, 0.04, 0.03], [0.5, 0.2, 0.9], [0.001, 0.02, 0.02, 0.6]]
    for p in given:
        try:
            got = np.asarray(answer(list(p)), dtype=float)
        except Exception as error:  # a participant's function may fail in any way; the hint must still come
            return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
        wanted = holm(p)
        if got.shape != (len(p),):
            return Check(False, f"{len(p)} p-values went in; {len(p)} must come out.")
        if np.allclose(got, wanted):
            continue
        order = np.argsort(p)
        raw = np.empty(len(p))
        raw[order] = np.array(p)[order] * np.arange(len(p), 0, -1)
        if np.allclose(got, np.minimum(1, np.array(p) * len(p))):
            return Check(False, "that is Bonferroni: every p times their number. Only the smallest has to pay for all.")
        if np.allclose(np.sort(got), np.sort(wanted)):
            return Check(False, "right numbers, wrong order: give each back to the test that it came from.")
        if np.allclose(got, raw):
            return Check(False, "nearly: a corrected p is never above 1, nor below that of a smaller p before it.")
        if np.allclose(got, np.minimum(1, raw)):
            return Check(False, "nearly: a corrected p is never below that of a smaller p before it.")
        return Check(False, "off; sort, multiply the smallest by m, the next by m − 1, and so on.")
    return Check(True, "right: one false alarm among all tests stays as rare as one test alone would be.")
