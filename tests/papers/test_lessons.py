import re

import pytest
import torch

from workbench.adapters._random import random_numbers
from workbench.lessons import Check, check_combination, check_numbers_trained, knob, progress_bar


@pytest.mark.parametrize(
    ("lora", "nola", "hint"),
    [
        (None, None, "`lora` is None"), (384, 768, "how many matrices"), (1536, 768, "column|one matrix per layer"),
        (294912, 768, "whole matrices"), (5, 768, "d \\+ d"), (3072, 3072, "grows with the rank"),
        (3072, 384, "its own|one matrix per layer"), (3072, 96, "how many are adapted"), (3072, 5, "depends on k"),
        (3072, 768.0, "whole number"),
    ],
)  # fmt: skip
def test_wrong_counts_get_a_hint_that_does_not_give_the_answer(lora, nola, hint):
    check = check_numbers_trained(lora, nola)
    assert not check.passed
    assert str(check).startswith("Not yet")
    assert re.search(hint, check.text)
    assert "3072" not in check.text and "768" not in check.text.replace(str(nola), "")


def test_right_counts_pass():
    text = "NOLA trains 25% of what LoRA's smallest adapter does, and its rank is free."
    assert check_numbers_trained(3072, 768) == Check(True, text)


def one_by_one(coeffs, shape, seed):
    n = shape[0] * shape[1]
    out = torch.zeros(n)
    for j, c in enumerate(coeffs):
        out += c * random_numbers(seed, j * n, n)
    return out.view(shape)


def all_at_once(coeffs, shape, seed):
    n = shape[0] * shape[1]
    return (coeffs @ random_numbers(seed, 0, len(coeffs) * n).view(-1, n)).view(shape)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda c, s, seed: None, "returned NoneType"),
        (lambda c, s, seed: 1 / 0, "ZeroDivisionError"),
        (lambda c, s, seed: one_by_one(c, s, seed).flatten(), "has shape"),
        (lambda c, s, seed: one_by_one(c, s, seed) / 8, "√k"),
        (lambda c, s, seed: c.sum() * random_numbers(seed, 0, s[0] * s[1]).view(s), "same matrix"),
        (lambda c, s, seed: one_by_one(c, s, seed + 1), "numbers differ"),
        (all_at_once, "in memory at once"),
    ],
)  # fmt: skip
def test_wrong_functions_get_their_hint(answer, hint):
    check = check_combination(answer)
    assert not check.passed and hint in check.text


def test_the_right_function_passes():
    assert check_combination(one_by_one).passed


def test_the_bar_shows_share_and_text(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    progress = progress_bar()
    progress(3, 4, "two")
    bar, label = shown[0].children
    assert bar.value == 0.75
    assert label.value.startswith("75% · two · about")


def below(turned):
    """What stands below a knob, as plain text."""
    return [output.get("data", {}).get("text/plain") or output["evalue"] for output in turned.children[-1].outputs]


def test_a_knob_shows_what_its_function_returns_and_turns_with_its_widgets():
    turned = knob(lambda n: f"twice {n}", n=(1, 5))
    assert below(turned) == ["'twice 3'"]
    turned.children[0].value = 4
    assert below(turned) == ["'twice 4'"] and turned.result == "twice 4"


def test_a_knob_told_to_waits_for_its_button():
    calls = []
    waits = knob(lambda n: calls.append(n) or n, {"manual": True, "manual_name": "go"}, n=(1, 5))
    waits.children[0].value = 4
    assert calls == [] and below(waits) == []
    waits.children[1].click()
    assert calls == [4] and below(waits) == ["4"] and not waits.children[1].disabled


def test_a_knob_that_fails_says_so_below_and_raises():
    turned = knob(lambda n: 6 / (n - 4), n=(1, 5))
    with pytest.raises(ZeroDivisionError):
        turned.children[0].value = 4
    assert below(turned) == ["division by zero"]


@pytest.mark.parametrize("renderer", ["browser", "plotly_mimetype", "notebook", ""])
def test_a_knob_shows_a_figure_as_its_data(renderer, monkeypatch):
    """Whatever plotly found at its import to draw with: on a machine with a browser it would hand the figure to that."""
    import plotly.graph_objects as go
    import plotly.io as pio

    monkeypatch.setattr(pio.renderers, "default", renderer)
    turned = knob(lambda n: go.Figure(go.Scatter(x=[1, n], y=[2, 2])), n=(1, 5))
    assert "application/vnd.plotly.v1+json" in turned.children[-1].outputs[0]["data"]
