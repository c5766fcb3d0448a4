import pytest
import torch

from workbench.lesson_checks_intrinsic import check_description, check_said, check_toy


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "`d` is None"), (12.5, "whole number"), (True, "whole number"), (1000, "number of parameters"),
        (990, "set of solutions"), (100, "size of a group"), (9, "misses"), (11, "one fewer"), (5, "independent conditions"),
    ],
)  # fmt: skip
def test_wrong_toy_dimensions_get_a_hint(answer, hint):
    check = check_toy(answer)
    assert not check.passed and hint in check.text and "10" not in check.text.replace("1000", "")


def test_the_right_toy_dimension_passes():
    assert check_toy(10).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 3008), "`times` is None"), ((266, "many"), "put a number"), ((750 / 199210, 3008), "upside down"),
        ((100, 3008), "divide"), ((265.6, 750), "not bytes"), ((265.6, 3000), "leaves out the seed"),
        ((265.6, 758), "as one byte"), ((265.6, 24008), "counts bits"), ((265.6, 796840), "whole network"),
        ((265.6, 5), "off"),
    ],
)  # fmt: skip
def test_wrong_descriptions_get_a_hint(answer, hint):
    check = check_description(*answer)
    assert not check.passed and hint in check.text and "3008" not in check.text


def test_the_right_description_passes():
    assert check_description(199_210 / 750, 3008).passed


def each(z, scales, parts):
    return [scale * part @ z for scale, part in zip(scales, parts, strict=True)]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda z, s, p: None, "returned NoneType"), (lambda z, s, p: 1 / 0, "ZeroDivisionError"),
        (lambda z, s, p: each(z, s, p)[:2], "wanted (4,)"), (lambda z, s, p: [part @ z for part in p], "that is DID"),
        (lambda z, s, p: [s[0] * part @ z for part in p], "same scale"),
        (lambda z, s, p: [part @ z + one for one, part in zip(s, p, strict=True)], "it multiplies"),
        (lambda z, s, p: [torch.zeros(len(part)) for part in p], "numbers are off"),
    ],
)  # fmt: skip
def test_wrong_moves_get_a_hint(answer, hint):
    check = check_said(answer)
    assert not check.passed and hint in check.text


def test_the_right_moves_pass():
    assert check_said(each).passed
