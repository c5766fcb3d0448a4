"""The page `randlora`: targets, the least error by hand, verdict by hand, figure, and a short run against the theory."""

import pandas as pd
import pytest
import torch

from workbench.figures import style
from workbench.papers import randlora as page


def test_targets_have_the_wanted_spectrum_and_norm_one():
    values = torch.linalg.svdvals(page.target(1.0, 0, size=8))
    torch.testing.assert_close(values / values[0], 1 / torch.arange(1.0, 9.0), rtol=1e-4, atol=1e-5)
    assert page.target(0.5, 3).square().sum().item() == pytest.approx(1, abs=1e-4)
    assert not torch.equal(page.target(1.0, 0), page.target(1.0, 1))


def test_least_error_by_hand():
    assert page.floor(0.0, 1, size=4) == pytest.approx(3 / 4)
    assert page.floor(1.0, 1, size=2) == pytest.approx((1 / 4) / (1 + 1 / 4))


def rows(errors, seed=0):
    found = [
        {"seed": seed, "kind": "draw", "decay": decay, "arm": arm, "rate": rate, "error": error + extra, "floor": 0.1,
         "rank": {"LoRA": 4, "RandLoRA": 64}[arm], "trainable": 500}
        for (decay, arm), error in errors.items() for rate, extra in ((0.01, 0.0), (0.1, 0.3))
    ]  # fmt: skip
    found += [{"seed": seed, "kind": "file", "arm": arm, "stored": 9} for arm in ("peft's randlora", "wb_randlora")]
    return pd.DataFrame(found)


GOOD = {
    (0.0, "LoRA"): 0.94, (0.0, "RandLoRA"): 0.8, (1.0, "LoRA"): 0.2, (1.0, "RandLoRA"): 0.6,
    (2.0, "LoRA"): 0.01, (2.0, "RandLoRA"): 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({}, 0.14), ({(0.0, "RandLoRA"): 0.99}, -0.05), ({(1.0, "LoRA"): 0.7}, -0.1), ({(2.0, "RandLoRA"): 0.0}, -0.01)],
)
def test_margin_by_hand(changed, expected):
    assert page.margin(rows({**GOOD, **changed})) == pytest.approx(expected)


def test_figure_is_in_the_house_style_and_says_the_finding():
    fig = page.figure(pd.concat([rows(GOOD, 0), rows(GOOD, 1)], ignore_index=True))
    style.check(fig)
    assert "LoRA 0.94 on a flat spectrum" in style.alt(fig)


def test_lora_reaches_its_least_error_and_randlora_full_rank():
    lora = page.learn("LoRA", 1.0, 0.03, 300, 0)
    assert page.floor(1.0, 4) - 1e-4 <= lora["error"] < page.floor(1.0, 4) * 1.02
    assert lora["rank"] == 4
    rand = page.learn("RandLoRA", 0.0, 0.03, 30, 0)
    assert rand["rank"] > 32 and (lora["trainable"], rand["trainable"]) == (512, 584)


def test_peft_stores_the_bases_with_every_layer_and_ours_the_diagonals_only():
    stock, ours = page.stored(layers=3, size=16, r=4)
    assert stock["trainable"] == ours["trainable"] == ours["stored"] == 3 * 4 * (4 + 16)
    assert stock["stored"] == stock["trainable"] + (3 + 1) * (4 * 16 + 16 * 4 * 4)
