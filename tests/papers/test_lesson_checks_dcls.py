import pytest
import torch

from workbench.layers.dcls_fft import good_size, grid
from workbench.lesson_checks_dcls import check_counts, check_spread, check_transform

DENSE, OWN, SHARED = 998784, 352512, 143616


def right(weights, places, size):
    pixels = torch.arange(size)
    return (weights.unsqueeze(1) * (1 - (pixels - places.unsqueeze(1)).abs()).relu()).sum(0)


def indexed(weights, places, size):
    low = places.detach().floor().long()
    part = (places - low).detach()
    kernel = torch.zeros(size).index_add(0, low, weights * (1 - part))
    return kernel.index_add(0, (low + 1).clamp(max=size - 1), weights * part)


@pytest.mark.parametrize(
    ("answers", "hint"),
    [
        ((None, OWN, SHARED), "`dense` is None"), ((DENSE, 1.0, SHARED), "`own` is 1.0"),
        ((384 * 289, OWN, SHARED), "the stage has nine"),
        ((DENSE * 384, OWN, SHARED), "every pair of channels"), ((9 * 384 * 17, OWN, SHARED), "one side"),
        ((7, OWN, SHARED), "`dense` is off"), ((DENSE, 117504, SHARED), "weights only"),
        ((DENSE, 235008, SHARED), "two axes"), ((DENSE, 39168, SHARED), "one block"), ((DENSE, 7, SHARED), "`own` is off"),
        ((DENSE, OWN, OWN), "once per stage"), ((DENSE, OWN, 39168), "keeps its own weights"),
        ((DENSE, OWN, 117504), "lost the positions"), ((DENSE, OWN, 117572), "channels do not"), ((DENSE, OWN, 7), "is off"),
    ],
)  # fmt: skip
def test_wrong_counts_get_their_hint(answers, hint):
    check = check_counts(*answers)
    assert not check.passed and hint in check.text
    assert not any(str(number) in check.text for number in (DENSE, OWN, SHARED))


def test_the_right_counts_pass():
    check = check_counts(DENSE, OWN, SHARED)
    assert check.passed and "22%" in check.text


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, p, s: 1 / 0, "ZeroDivisionError"), (lambda w, p, s: [0], "returned list"),
        (lambda w, p, s: torch.zeros(3), "shape (3,)"),
        (lambda w, p, s: torch.zeros(s).index_add(0, p.detach().round().long(), w), "nearest pixel"),
        (lambda w, p, s: right(w, 2 * p.floor() + 1 - p, s), "exchanged"), (lambda w, p, s: 2 * right(w, p, s), "sums to"),
        (lambda w, p, s: right(w, p, s).roll(1), "on paper"), (lambda w, p, s: right(w, p, s).detach(), "no gradient can flow"),
        (indexed, "places get no gradient"),
        (lambda w, p, s: right(w, 2 * p.detach() - p, s), "slope of the places is not"),
    ],
)  # fmt: skip
def test_wrong_kernels_get_their_hint(answer, hint):
    check = check_spread(answer)
    assert not check.passed and hint in check.text, check.text


def test_the_right_kernel_passes():
    assert check_spread(right).passed


@pytest.mark.parametrize(
    ("answers", "hint"),
    [
        ((None, 39), "`side` is None"), ((44, 39), "both sides"), ((28, 39), "left one"), ((36, 51), "how far"),
        ((36, 7), "`larger` is off"),
    ],
)  # fmt: skip
def test_wrong_sides_get_their_hint(answers, hint):
    check = check_transform(*answers)
    assert not check.passed and hint in check.text


def test_the_right_sides_pass_and_are_the_ones_in_use():
    check = check_transform(36, 39)
    assert check.passed
    for s, raw, used in ((17, 36, 36), (23, 39, 40)):
        assert good_size(raw) == used and grid((28,), (s,), (s // 2,)) == (used,)
        assert str(used) in check.text
