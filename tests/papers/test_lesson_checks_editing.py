import pytest
import torch

from workbench.lesson_checks_editing import check_mix, check_passes, check_trained

BLOCK, WHOLE = 96_256, 3_188_736


@pytest.mark.parametrize(
    ("block", "whole", "hint"),
    [
        (None, WHOLE, "`block` is None"), (BLOCK, 1.5, "`whole` is 1.5"), (True, WHOLE, "`block` is True"),
        (16 * 8 * 320, WHOLE, "self-attention only"), (16 * 16 * 320, WHOLE, "two of them read the feature"),
        (16 * (7 * 320 + 768), WHOLE, "an A *and* a B"), (BLOCK // 16, WHOLE, "rank 1"),
        (16 * (12 * 320 + 2 * 768), WHOLE, "an output too"),
        (5, WHOLE, "eight layers"), (BLOCK, 16 * BLOCK, "all sixteen blocks"),
        (BLOCK, 16 * (14 * (320 + 640 + 1280) + 3 * 2 * 768), "each width once"), (BLOCK, 7, "times 5, 5 and 6"),
    ],
)  # fmt: skip
def test_wrong_counts_get_a_hint_without_the_answer(block, whole, hint):
    check = check_trained(block, whole)
    assert not check.passed and hint in check.text
    assert not any(str(answer) in check.text for answer in (BLOCK, WHOLE))


def test_right_counts_pass():
    assert check_trained(BLOCK, WHOLE).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, t, eta: None, "NoneType"), (lambda p, t, eta: p[0], "wanted a tensor of (1, 1, 64)"),
        (lambda p, t, eta: 1 / 0, "ZeroDivisionError"), (lambda p, t, eta: t, "the picture's feature, untouched"),
        (lambda p, t, eta: eta * p + (1 - eta) * t * p.norm() / t.norm(), "exchanged"),
        (lambda p, t, eta: (1 - eta) * p + eta * t, "compare the two norms"),
        (lambda p, t, eta: (1 - eta) * p + eta * t / t.norm(), "as long as the picture's"),
        (lambda p, t, eta: (1 - eta) ** 2 * p + (1 - (1 - eta) ** 2) * t * p.norm() / t.norm(), "the way between"),
    ],
)  # fmt: skip
def test_wrong_walks_get_their_hint(answer, hint):
    check = check_mix(answer)
    assert not check.passed and hint in check.text


def test_the_right_walk_passes_and_is_what_the_package_does():
    assert check_mix(lambda p, t, eta: (1 - eta) * p + eta * t * p.norm() / t.norm()).passed
    from workbench.vision.fastedit import EditSession

    def walk(picture, text, eta):
        return EditSession(None, torch.nn.Identity(), picture, text).mix(eta)

    assert check_mix(walk).passed


@pytest.mark.parametrize(
    ("plain", "guided", "hint"),
    [
        ("70", 90, "`plain` is '70'"), (50, 90, "the fit only"), (90, 90, "would cancel"), (120, 90, "backward"),
        (3, 90, "one pass"),
        (70, None, "`guided` is None"), (70, 70, "as `plain`"), (70, 140, "doubles the fit"), (70, 110, "however large"),
        (70, 1, "only painting"),
    ],
)  # fmt: skip
def test_wrong_passes_get_their_hint(plain, guided, hint):
    check = check_passes(plain, guided)
    assert not check.passed and hint in check.text


def test_right_passes():
    assert check_passes(70, 90).passed
