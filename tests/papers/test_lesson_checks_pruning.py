import re

import pytest
import torch

from workbench.lesson_checks_pruning import check_merge, check_sizes, check_wanda


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 9, 9), "`dense` is None"), ((True, 9, 9), "put a number"), ((8, 9, 9), "an ordinary file spend on a zero"),
        ((16, 8, 9), "where they belong"), ((16, 8.5, 9), "on every weight"), ((16, 17, 9), "stores the zeros"),
        ((16, 3, 9), "a map of all"), ((16, 9, 8), "among the four are missing"), ((16, 9, 8.5), "one bit on a place"),
        ((16, 9, 10), "zeros too"), ((16, 9, 36), "divide by its size"), ((16, 9, 1), "one group of four"),
    ],
)  # fmt: skip
def test_wrong_sizes_get_a_hint_that_does_not_give_the_answer(answer, hint):
    check = check_sizes(*answer)
    assert not check.passed and hint in check.text
    assert not re.search(r"\b9\b", check.text)


def test_right_sizes_pass():
    assert check_sizes(16, 9, 9.0).passed


def by_rows(scores, share):
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(1, scores.argsort(1)[:, : int(share * scores.shape[1])], False)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, x, s: None, "not NoneType"), (lambda w, x, s: 1 / 0, "ZeroDivisionError"),
        (lambda w, x, s: w, "torch.float32"), (lambda w, x, s: ~by_rows(w.abs() * x.norm(dim=0), s), "the other way round"),
        (lambda w, x, s: by_rows((w.abs() * x.norm(dim=0)).view(1, -1), s).view_as(w), "over the whole matrix"),
        (lambda w, x, s: by_rows(w.abs(), s), "plain magnitude"),
        (lambda w, x, s: by_rows(w * x.norm(dim=0), s), "sign of the weights"),
        (lambda w, x, s: by_rows(w.abs() * x.sum(0).abs(), s), "cancel"),
        (lambda w, x, s: by_rows(w.abs() * x.norm(dim=0), 0.4), "keep [12, 12"),
        (lambda w, x, s: by_rows(x.norm(dim=0).expand_as(w), s), "the choice is not"),
    ],
)  # fmt: skip
def test_wrong_masks_get_their_hint(answer, hint):
    check = check_wanda(answer)
    assert not check.passed and hint in check.text


def test_the_right_mask_passes():
    assert check_wanda(lambda w, x, s: by_rows(w.abs() * x.square().mean(0).sqrt(), s)).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, m, b, a, s: None, "shape (5, 8)"), (lambda w, m, b, a, s: 1 / 0, "ZeroDivisionError"),
        (lambda w, m, b, a, s: w + s * (b @ a), "zeros are gone"),
        (lambda w, m, b, a, s: w + s * (w != 0) * (b @ a), "stays 0"), (lambda w, m, b, a, s: w + m * (b @ a), "is missing"),
        (lambda w, m, b, a, s: s * (w + m * (b @ a)), "falls on the weight"),
        (lambda w, m, b, a, s: w * (b @ a), "ScaleLoRA"), (lambda w, m, b, a, s: w, "numbers are off"),
    ],
)  # fmt: skip
def test_wrong_merges_get_their_hint(answer, hint):
    check = check_merge(answer)
    assert not check.passed and hint in check.text


def test_the_right_merge_passes():
    assert check_merge(lambda w, m, b, a, s: torch.where(m, w + s * (b @ a), 0.0)).passed
