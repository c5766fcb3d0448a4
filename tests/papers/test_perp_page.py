"""The page `perp`: verdict by hand, figures, and the cells it runs."""

import math

import pandas as pd
import pytest
import torch

from workbench.compress.masks import check_nm
from workbench.compress.perp_train import check_parts
from workbench.compress.targets import find_targets, matrix
from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _perp_figures, _perp_runs, badge, perp

ZEROS = {0.6: 0.6, 0.7: 0.7, 0.8: 0.8}


def losses(vectors=4.4, other=4.3, ours=4.1, full=4.0):
    return {"nothing": 5.0, "biases and norms": vectors, "LoRA-prune": other, "MaskLoRA": ours, "full": full}


def table(at_60, at_80, sparsegpt, seed=0, zeros=ZEROS):
    """Rows of one seed from losses {arm: loss}, good ones at 70 %; every arm also has a rate that was not chosen."""
    place = {"seed": seed, "pattern": "unstructured"}
    rows = [
        {**place, "pruner": "none", "sparsity": 0.0, "arm": "nothing", "test": 4.0, "share": 0.0, "chosen": True, "zeros": 0.0},
        {**place, "pruner": "sparsegpt", "sparsity": 0.6, "arm": "nothing", "test": sparsegpt, "share": 0.0, "chosen": True,
         "zeros": 0.6},
    ]  # fmt: skip
    for sparsity, found in ((0.6, at_60), (0.7, losses(ours=4.0)), (0.8, at_80)):
        for number, (arm, loss) in enumerate(found.items()):
            row = {**place, "pruner": "magnitude", "sparsity": sparsity, "arm": arm, "share": number / 10}
            rows.append({**row, "test": loss, "zeros": zeros[sparsity], "chosen": True})
            rows.append({**row, "chosen": False})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("at_60", "at_80", "sparsegpt", "expected"),
    [
        (losses(ours=4.0), losses(ours=4.0), 4.2, 0.1),  # R = 0.6, 1, 1: margins 0.1, 0.1, 0.3, 0.2
        (losses(vectors=4.7, ours=4.0), losses(ours=4.0), 4.2, -0.2),  # the vectors bring back 0.3
        (losses(ours=4.0), losses(ours=4.3, other=4.5), 4.5, -0.2),  # MaskLoRA 0.7 at 80 %
        (losses(ours=4.0), losses(other=3.9, ours=4.0), 4.2, -0.1),  # LoRA-prune ahead at 80 %
        (losses(ours=4.0), losses(ours=4.0), 3.7, -0.3),  # SparseGPT is better
        (losses(full=5.0), losses(), 4.2, -1.0),  # nothing to bring back
    ],
)
def test_margin_by_hand(at_60, at_80, sparsegpt, expected):
    assert perp.margin(table(at_60, at_80, sparsegpt)) == pytest.approx(expected)


def test_zeros_that_were_not_kept_are_a_failure():
    rows = table(losses(ours=4.0), losses(ours=4.0), 4.2, zeros=ZEROS | {0.8: 0.75})
    assert perp.margin(rows) == -1


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(losses(ours=4.0), losses(), 4.2, seed=seed) for seed in range(seeds)], ignore_index=True)
    fig = perp.figure(rows)
    for shown in (fig, _perp_figures.against_sparsity(rows), _perp_figures.masks_picture()):
        style.check(shown)
        style.check(style.theme(shown, dark=True))
    assert (
        "at 60% zeros" in style.alt(fig)
        and "biases and norms 0.60" in style.alt(fig)
        and "MaskLoRA 1.00" in style.alt(fig)
    )
    assert "Filled: 60% zeros. Hollow: 70% zeros. Dotted: 80% zeros." in fig.layout.meta["caption"]
    assert ("95 % interval over 3 seeds" if seeds == 3 else "One seed") in fig.layout.meta["caption"]


def test_your_own_points_are_stars():
    rows = table(losses(), losses(), 4.2)
    mine = pd.DataFrame([{"pruner": "random", "sparsity": 0.5, "pattern": "2:4", "arm": "norms", "test": 5.0}])
    star = _perp_figures.against_sparsity(rows, mine).data[-1]
    assert star.marker.symbol == "star" and star.y[0] == pytest.approx(math.exp(5)) and star.x[0] == 50


def test_wanda_keeps_what_multiplies_loud_inputs():
    assert "magnitude, 2:4" in style.alt(_perp_figures.masks_picture())
    kept = [
        figure.data[1].z[:, ::4] != 0 for figure in (_perp_figures.masks_picture(loud=1), _perp_figures.masks_picture())
    ]
    assert kept[1].mean() > 0.8 > kept[0].mean()


def test_every_arm_names_parts_that_exist_and_has_as_many_rates_as_every_other():
    for parts, rates in _perp_runs.ARMS.values():
        if parts:
            check_parts(parts)
            assert len(rates) == 2 and rates[0] < rates[1]
    assert all(arm in _perp_figures.LOOKS for arm in _perp_runs.ARMS)
    with pytest.raises(UserError, match="did you mean smoke"):
        _perp_runs.plan_for("smok")


def test_small_runs_everything_smoke_runs():
    small, smoke = _perp_runs.cases("small"), _perp_runs.cases("smoke")
    assert set(smoke) < set(small) and len(set(small)) == len(small)


def test_a_cell_keeps_its_zeros_and_leaves_the_dense_model_alone():
    from dataclasses import replace

    setup = _perp_runs.prepare(replace(_perp_runs.plan_for("smoke"), rates=2), 0, "cpu")
    before = {name: tensor.clone() for name, tensor in setup.base.state_dict().items()}
    for arm in ("MaskLoRA", "MaskLoRA, block by block"):
        rows = _perp_runs.run_case(setup, _perp_runs.Case("magnitude", 0.5, "2:4", arm), 0)
        chosen = [row for row in rows if row["chosen"]]
        assert len(rows) == 2 and len(chosen) == 1 and chosen[0]["zeros"] == 0.5
        assert chosen[0]["eval"] == min(row["eval"] for row in rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in setup.base.state_dict().items())
    assert not any(check_nm(matrix(layer), 2, 4) for layer in find_targets(setup.base).values())
    assert len(setup.calibration) * 64 >= 512  # SparseGPT's widest layer


def test_loss_is_the_mean_over_all_predicted_tokens():
    class Fixed(torch.nn.Module):
        def forward(self, input_ids, labels, use_cache):
            logits = torch.zeros(*input_ids.shape, 4)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            return type("Out", (), {"loss": loss + input_ids[0, 0]})()

    rows = torch.tensor([[0, 1, 2]] * 16 + [[3, 1, 2]] * 4)
    assert _perp_runs.loss_of(Fixed(), rows) == pytest.approx(math.log(4) + 3 * 4 / 20)


def test_the_badge_kept_every_zero():
    rows = _perp_figures.best(pd.DataFrame(badge.read("perp")["rows"]))
    pruned = rows[(rows["pruner"] == "magnitude") & (rows["pattern"] == "unstructured")]
    assert ((pruned["zeros"] - pruned["sparsity"]).abs() < 1e-4).all()
    assert (rows[rows["pattern"] == "2:4"]["zeros"] == 0.5).all()
