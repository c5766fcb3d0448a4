"""Checkers of lessons 03 and 04: right answers pass, typical wrong ones get a hint and never the answer."""

import pytest
import torch

from workbench.lesson_checks_adapters import check_counts, check_map, check_rank
from workbench.lesson_checks_prompts import check_positions, check_split

DENSE, COMPACTER = 2 * 192 * 24 + 24 + 192, 2 * (192 + 24) + 24 + 192


@pytest.mark.parametrize(
    ("dense", "compacter", "hint"),
    [
        (None, COMPACTER, "`dense` is None"), (DENSE, 1.5, "`compacter` is 1.5"), (9216, COMPACTER, "biases are missing"),
        (4608, COMPACTER, "one matrix"), (7, COMPACTER, "goes from the layer's size"), (DENSE, 432, "biases are missing"),
        (DENSE, COMPACTER + 64, "shared rule"), (DENSE, 8 * 216 + 216, "size d/n"), (DENSE, 7, "how many numbers together"),
    ],
)  # fmt: skip
def test_wrong_counts_get_a_hint(dense, compacter, hint):
    check = check_counts(dense, compacter)
    assert not check.passed and hint in check.text
    assert str(DENSE) not in check.text and str(COMPACTER) not in check.text


def right(x, C, s, t):
    return x @ sum(torch.kron(C[m], torch.outer(s[m], t[m])) for m in range(len(C)))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, C, s, t: None, "return a tensor"), (lambda x, C, s, t: x @ C, "stopped"),
        (lambda x, C, s, t: x @ sum(torch.kron(torch.outer(s[m], t[m]), C[m]) for m in range(3)), "wrong way round"),
        (lambda x, C, s, t: x @ sum(torch.kron(C[m].T.contiguous(), torch.outer(s[m], t[m])) for m in range(3)), "transposed"),
        (lambda x, C, s, t: x @ torch.kron(C[0], torch.outer(s[0], t[0])), "first product"),
        (lambda x, C, s, t: right(x, C, s, t) + 1, "numbers are off"),
    ],
)  # fmt: skip
def test_wrong_maps_get_a_hint(answer, hint):
    check = check_map(answer)
    assert not check.passed and hint in check.text


def test_right_answers_pass():
    assert check_counts(DENSE, COMPACTER).passed and check_map(right).passed and check_rank(10).passed
    assert check_split(22).passed and check_positions(lambda mask: mask.cumsum(1) - 1).passed


@pytest.mark.parametrize(
    ("r", "hint"), [(None, "whole number"), (4, "LoRA's rank"), (9, "more than 512"), (20, "fewer")]
)
def test_wrong_ranks_get_a_hint(r, hint):
    check = check_rank(r)
    assert not check.passed and hint in check.text


@pytest.mark.parametrize(
    ("r", "hint"),
    [
        ("22", "whole number"),
        (45, "have to be paid"),
        (30, "B only"),
        (90, "A only"),
        (23, "one too many"),
        (3, "what is left"),
    ],
)
def test_wrong_splits_get_a_hint(r, hint):
    check = check_split(r)
    assert not check.passed and hint in check.text and "22" not in check.text.replace("'22'", "")


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda mask: None, "must return"), (lambda mask: mask.missing, "stopped"),
        (lambda mask: mask.cumsum(1), "one too large"), (lambda mask: torch.arange(5).expand(3, 5), "columns"),
        (lambda mask: mask * 0, "running sum"),
    ],
)  # fmt: skip
def test_wrong_positions_get_a_hint(answer, hint):
    check = check_positions(answer)
    assert not check.passed and hint in check.text
