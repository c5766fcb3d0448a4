import pytest
import torch

from workbench.lesson_checks_sparse import check_budget, check_exchange, check_gathered


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((None, 1), "`deltas` is None"), ((2816, "2"), "put a number"), ((768, 1), "LoRA has two"), ((2048, 1), "LoRA has two"),
        ((704, 1), "rank one"), ((98304, 1), "every entry"), ((393216, 1), "multiplies the sides"), ((5, 1), "(d_out, 4)"),
        ((2816, 0.0286), "give percent"), ((2816, 7), "over all entries"),
    ],
)  # fmt: skip
def test_wrong_budgets_get_a_hint(answer, hint):
    check = check_budget(*answer)
    assert not check.passed and hint in check.text and "2816" not in check.text


def test_the_right_budget_passes():
    assert check_budget(2816, 2.86).passed


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda g, x, p: None, "NoneType"), (lambda g, x, p: 1 / 0, "ZeroDivisionError"),
        (lambda g, x, p: g.T @ x, "one number per position"),
        (lambda g, x, p: (x.T @ g).reshape(-1)[p], "transposed"),
        (lambda g, x, p: (g.T @ x).reshape(-1)[p] / len(x), "mean over the rows"),
        (lambda g, x, p: torch.zeros(len(p)), "numbers are off"),
    ],
)  # fmt: skip
def test_wrong_gradients_get_a_hint(answer, hint):
    check = check_gathered(answer)
    assert not check.passed and hint in check.text


def test_the_right_gradient_passes():
    assert check_gathered(lambda g, x, p: (g.T @ x).reshape(-1)[p]).passed
    assert check_gathered(lambda g, x, p: (g[:, p // x.shape[1]] * x[:, p % x.shape[1]]).sum(0)).passed


def right(values, places, candidates, score, share):
    count = int(share * len(values))
    order = values.abs().argsort()
    stay = set(places[order[count:]].tolist())
    free = [c for c in candidates[score.argsort(descending=True)].tolist() if c not in stay]
    return stay | set(free[:count])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v, p, c, s, q: None, "TypeError"), (lambda v, p, c, s, q: p.tolist(), "nothing moved"),
        (lambda v, p, c, s, q: p.tolist()[:2], "as many enter as leave"),
        (lambda v, p, c, s, q: [11, 12, 21, 22], "a large delta"), (lambda v, p, c, s, q: [10, 13, 20, 22], "wrong candidates"),
        (lambda v, p, c, s, q: right(-v.abs().reciprocal(), p, c, s, q), "a large delta"),
    ],
)  # fmt: skip
def test_wrong_moves_get_a_hint(answer, hint):
    check = check_exchange(answer)
    assert not check.passed and hint in check.text


def test_the_right_move_passes():
    assert check_exchange(right).passed
