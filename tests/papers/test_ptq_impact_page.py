"""The page `ptq-impact`: verdict by hand, formats, figures."""

import pandas as pd
import pytest
import torch

from workbench.compress.quantize import quantize_model
from workbench.compress.targets import find_targets, matrix
from workbench.errors import UserError
from workbench.figures import style
from workbench.papers import _ptq_impact_figures as figures
from workbench.papers import _ptq_impact_runs as runs
from workbench.papers import ptq_impact

TV = {"int8": 0.01, "nf4": 0.04, "nf4-dq": 0.04, "fp4": 0.05, "fp4-dq": 0.05, "int4": 0.05, "rtn-4": 0.04, "int3": 0.1}


def table(kl, off=0.0, tv_growth=1.5, seed=0):
    """Rows of one seed at T = 0.5 and 1 from KL values by format; the prediction is off by a share at T = 0.5."""
    kl = {"int8": 1e-4, "nf4": 0.010, "nf4-dq": 0.010, "fp4": 0.014, "fp4-dq": 0.014, "rtn-4": 0.009} | kl
    rows = []
    for temperature in (0.5, 1.0):
        share = off if temperature == 0.5 else 0.0
        for name, value in kl.items():
            tv = TV[name] * (tv_growth if temperature == 0.5 else 1)
            rows.append({"part": "contexts", "model": name, "temperature": temperature, "top_k": 0, "kl": value / temperature,
                         "predicted": value / temperature * (1 + share), "tv": tv, "spread": temperature / 2,
                         "contexts": 10})  # fmt: skip
            rows.append({**rows[-1], "top_k": 40, "kl": 1.0})  # not judged
        for name in ("full", "nf4", "int3"):
            rows.append({"part": "texts", "model": name, "temperature": temperature, "top_k": 0, "gap": 0.1, "se": 0.02,
                         "se_own": 0.06, "prompts": 5})  # fmt: skip
    return pd.DataFrame(rows).assign(seed=seed)


@pytest.mark.parametrize(
    ("kl", "off", "growth", "expected"),
    [
        ({"int4": 0.013, "int3": 0.075}, 0.0, 1.5, 0.05),  # nothing is off: double quantization has the least room
        ({"int4": 0.013, "int3": 0.075, "nf4-dq": 0.0106}, 0.0, 1.5, 0.05 - 0.06),
        ({"int4": 0.0095, "int3": 0.075}, 0.0, 1.5, -0.05),  # int4 is nearer than nf4
        ({"int4": 0.013, "int3": 0.012}, 0.0, 1.5, 12 / 13 - 1),
        ({"int4": 0.013, "int3": 0.075}, 0.15, 1.5, 0.1 - 0.15),
        ({"int4": 0.013, "int3": 0.075}, -0.15, 1.5, 0.1 - 0.15),
        ({"int4": 0.013, "int3": 0.075}, 0.0, 2.1, 1 - 2.1 / 2),
    ],
)
def test_margin_by_hand(kl, off, growth, expected):
    assert ptq_impact.margin(table(kl, off, growth)) == pytest.approx(expected)


def test_three_bits_have_twice_the_room():
    rows = table({"int4": 0.013, "int3": 0.075})
    rows.loc[rows["model"] == "int3", "predicted"] *= 1.15
    assert ptq_impact.parts(rows)["closed form"] == pytest.approx(0.05)
    rows.loc[rows["model"] == "int8", "predicted"] *= 1.15
    assert ptq_impact.parts(rows)["closed form"] == pytest.approx(-0.05)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    kl = {"int4": 0.013, "int3": 0.075}
    rows = pd.concat([table(kl, seed=seed) for seed in range(seeds)], ignore_index=True)
    texts = figures.texts(rows, ("nf4", "int3"))
    for fig in (
        ptq_impact.figure(rows), figures.verdict(rows, ("fp4", "rtn-4"), top_k=40), figures.variation(rows), texts,
        figures.dice(rows),
        figures.candidates(["the", "a"], [0.6, 0.2], [0.5, 0.3], "Next token", "Words."),
    ):  # fmt: skip
        style.check(fig)
        style.check(style.theme(fig, dark=True))
        assert style.alt(fig).endswith(".")
    assert "int3 0.15 to 0.075" in style.alt(ptq_impact.figure(rows))
    assert "9.0 times as many prompts" in style.alt(figures.dice(rows))
    assert texts.data[0].error_y.array[0] == pytest.approx(1.96 * 0.02 / seeds**0.5)
    assert all(name in figures.LOOKS for name in runs.FORMATS)


def test_absmax_integers_by_hand():
    weight = torch.tensor([[7.0, -7.0, 3.4, 0.0, 0.2, -0.1, 0.0, 0.05]])
    record = runs.absmax_integers(weight, 4, block=4)
    assert record.codes.tolist() == [[15, 1, 11, 8, 15, 4, 8, 10]]  # 0.05 / (0.2/7) = 1.75
    assert record.dequantize()[0, :4].tolist() == [7, -7, 3, 0]
    again = runs.absmax_integers(record.dequantize(), 4, block=4)
    assert torch.equal(again.codes, record.codes)  # what lies on the grid stays
    assert torch.equal(runs.absmax_integers(torch.zeros(1, 4), 3, block=4).dequantize(), torch.zeros(1, 4))


def test_a_rounded_copy_computes_what_the_packed_model_does_and_leaves_the_original_alone():
    from workbench.models import load_model

    base = load_model("tiny-lm")
    before = {name: matrix(layer).clone() for name, layer in find_targets(base).items()}
    packed = load_model("tiny-lm")
    quantize_model(packed, method="nf4", group_size=64)
    ids = torch.randint(2, 2000, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(runs.rounded(base, "nf4")(ids).logits, packed(ids).logits, atol=1e-4)
        assert torch.equal(runs.rounded(base, "full")(ids).logits, base(ids).logits)
    assert all(torch.equal(matrix(layer), before[name]) for name, layer in find_targets(base).items())
    # float32 scales cost 0.1875 bits more than the integer record's float16 scales and zero points
    assert runs.stored_bytes(base, "nf4") > runs.stored_bytes(base, "rtn-4") > runs.stored_bytes(base, "int3")
    assert runs.stored_bytes(base, "full") == 2 * sum(p.numel() for p in base.parameters())
    with pytest.raises(UserError, match="nf4"):
        runs.rounded(base, "nf5")


def test_contexts_and_prompts_come_from_documents_not_seen_and_do_not_overlap():
    plan = runs.plan_for("smoke")
    windows, prompts = runs.held_out(plan, 0)
    assert windows.shape == (3, 64) and prompts.shape == (2, 16)
    assert not any(torch.equal(prompt, window[:16]) for prompt in prompts for window in windows)
    assert not torch.equal(windows, runs.held_out(plan, 1)[0])
    with pytest.raises(UserError, match="small"):
        runs.plan_for("smal")
