from __future__ import annotations

import copy
import functools

import pytest
import torch

from workbench.compress import Calibration, awq, quantize_model, ranges
from workbench.compress.awq import candidate, clipped, quantize_awq
from workbench.compress.awq_fold import find_folds
from workbench.compress.linear import IntLinear
from workbench.compress.rtn import quantize_rtn
from workbench.compress.targets import find_targets


def uneven(width=64, out=48, tokens=400):
    """A weight, inputs of which three are fifty times larger, and their mean x xᵀ."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator, dtype=torch.float64)
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    x[:, [3, 20, 41]] *= 50
    return weight, x, x.t() @ x / tokens


def test_the_error_that_is_searched_is_the_one_of_the_outputs(monkeypatch):
    weight, x, hessian = uneven()
    record, cost = quantize_awq(weight, hessian, bits=3, group_size=32)
    delta = record.dequantize(torch.float64) - weight
    torch.testing.assert_close(cost[:, 0], (x @ delta.t()).square().mean(0))
    torch.testing.assert_close(cost[:, 1], (x @ weight.t()).square().mean(0))
    errors = []
    for step in range(20):  # the published loop, written out
        scale = hessian.diagonal().sqrt() ** (step / 20)
        scale = (scale / (scale.max() * scale.min()).sqrt()).half().double()
        rounded = quantize_rtn(weight * scale, bits=3, group_size=32).dequantize(torch.float64) / scale
        errors.append(float((x @ (rounded - weight).t()).square().mean(0).sum()))
    assert float(cost[:, 0].sum()) < min(errors)  # clipping on top
    monkeypatch.setattr(ranges, "SHRINKS", (1.0,))
    _, cost = quantize_awq(weight, hessian, bits=3, group_size=32)
    assert float(cost[:, 0].sum()) == pytest.approx(min(errors), rel=1e-9)
    assert errors.index(min(errors)) > 0  # scaling pays here, by a lot
    assert min(errors) < 0.3 * errors[0]


def test_clipping_chooses_the_best_of_eleven_ranges_for_every_group():
    weight, _, hessian = uneven()
    plain = quantize_rtn(weight, bits=3, group_size=32)
    found = clipped(weight, hessian, plain).dequantize(torch.float64)
    for row, group in ((0, 0), (5, 1), (17, 0)):
        cut = slice(32 * group, 32 * group + 32)
        w, own = weight[row : row + 1, cut], hessian[cut, cut]
        losses = []
        for i in range(11):
            scale = ((w.max().clamp(min=0) - w.min().clamp(max=0)) * (1 - 0.05 * i) / 7).half().double()
            zero = torch.round(-w.min().clamp(max=0) * (1 - 0.05 * i) / scale).clamp(0, 7)
            delta = scale * (torch.round(w / scale).add(zero).clamp(0, 7) - zero) - w
            losses.append(float(delta @ own @ delta.t()))
        delta = found[row : row + 1, cut] - w
        assert float(delta @ own @ delta.t()) == pytest.approx(min(losses), rel=1e-6) and min(losses) < losses[0]


def test_a_small_matrix_is_not_given_up_for_a_large_one_beside_it(monkeypatch):
    monkeypatch.setattr(ranges, "SHRINKS", (1.0,))
    weight, _, hessian = uneven()
    large = torch.randn(16, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    large[:, [3, 20, 41]] *= 1e-3  # it hardly looks at the inputs that decide for the other
    both = torch.cat([3e3 * large, weight])

    def relative(rows, **settings):
        _, cost = quantize_awq(both, hessian, bits=3, group_size=32, rows=rows, **settings)
        return [float(part[:, 0].sum() / part[:, 1].sum()) for part in cost.split([16, 48])]

    together, apart = relative(None), relative([16, 48])
    assert sum(apart) < sum(together) and together[0] <= apart[0]


def test_inputs_of_equal_size_are_not_scaled():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(16, 32, generator=generator)
    record, _ = quantize_awq(weight, torch.eye(32), bits=4, group_size=32)
    assert torch.equal(record.input_scale, torch.ones(32).half())
    dead, _ = quantize_awq(weight, torch.zeros(32, 32), bits=4, group_size=32)
    assert bool(torch.isfinite(dead.dequantize()).all())


def test_tied_inputs_share_a_scale():
    _, _, hessian = uneven()
    tie = torch.arange(32).view(2, 16).repeat_interleave(2, 0).flatten()
    scale = candidate(hessian, 0.5, tie)
    assert torch.equal(scale.view(2, 2, 16)[:, 0], scale.view(2, 2, 16)[:, 1])
    assert float(scale.max() * scale.min()) == pytest.approx(1, rel=2e-3)
    assert scale[tie == tie[3]][0] > 3 * scale[1]


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        ("llama", {"q_proj": "norm", "o_proj": "rows", "gate_proj": "norm", "down_proj": "rows"}),
        ("qwen3", {"q_proj": "norm", "o_proj": "rows", "gate_proj": "norm", "down_proj": "rows"}),
        ("gemma3", {"q_proj": "offset norm", "o_proj": "rows", "gate_proj": "offset norm", "down_proj": "rows"}),
        ("gpt2", {"c_attn": "norm", "c_fc": "norm"}),  # a fused projection and a GELU before the two others
    ],
)
def test_scales_fold_exactly_where_the_mathematics_allows(kind, kinds, tiny, tokens, logits):
    model = tiny(kind)
    with torch.no_grad():  # norms that are not one
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter += 0.3 * torch.rand_like(parameter)
    plain, before = logits(model, tokens), {name: p.clone() for name, p in model.named_parameters()}
    folds = find_folds(model, find_targets(model))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())  # the trial leaves nothing behind
    assert {name.rpartition(".")[2]: fold.kind for name, fold in folds.items()} == kinds
    assert len(folds) == 2 * len(kinds)
    name, fold = next((n, f) for n, f in folds.items() if f.kind == "rows" or kind == "gpt2")
    rows = torch.rand(int(fold.tie.max()) + 1) + 0.5
    layer = model.get_submodule(name)
    weight = layer.weight.data
    weight.mul_(rows[fold.tie] if kind != "gpt2" else rows[fold.tie].unsqueeze(1))
    fold.divide(model.get_submodule(fold.source), rows[fold.tie])
    torch.testing.assert_close(logits(model, tokens), plain, atol=2e-5, rtol=1e-4)


def test_an_input_that_others_read_too_is_not_folded(tiny, tokens, logits, windows):
    """k_proj stays dense and reads the same norm: dividing there would change it, so the layers keep their scale."""
    model = tiny("llama")
    assert "model.layers.0.self_attn.q_proj" not in find_folds(model, find_targets(model, ("lm_head", "k_proj")))
    dense = logits(model, tokens)
    quantize_model(model, method="awq", bits=8, group_size=32, calibration=windows, skip=("lm_head", "k_proj"))
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, IntLinear) and layer.input_scale is not None
    assert float((logits(model, tokens) - dense).norm() / dense.norm()) < 0.02


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_model_is_as_good_at_eight_bits_and_better_than_rounding_at_three(
    kind, tiny, windows, tokens, logits, tmp_path
):
    model = tiny(kind)
    with torch.no_grad():  # a few inputs much larger than the rest, as in trained models
        for name, parameter in model.named_parameters():
            if "input_layernorm" in name or "ln_1" in name:
                parameter[::16] += 20
    dense, errors = logits(model, tokens), {}
    for method, bits in (("awq", 8), ("awq", 3), ("rtn", 3)):
        packed = copy.deepcopy(model)
        report = quantize_model(packed, method=method, bits=bits, group_size=32, calibration=windows)
        answer = logits(packed, tokens)
        errors[method, bits] = float((answer - dense).norm() / dense.norm())
        if method == "awq":
            assert {layer["of"] for layer in report.layers} == {"output"} and report.settings["equal_tokens"]
            packed.save_pretrained(tmp_path / str(bits))
            again = type(packed).from_pretrained(tmp_path / str(bits))
            assert torch.equal(logits(again, tokens), answer)
            scaled = {name for name, layer in again.named_modules() if getattr(layer, "input_scale", None) is not None}
            assert bool(scaled) == (kind == "gpt2") and again.config.quantization_config.method == "awq"
    assert errors["awq", 8] < 0.02 and errors["awq", 3] < 0.9 * errors["rtn", 3]


def test_both_roads_and_shared_hessians_agree(tiny, windows, tokens, logits, monkeypatch):
    from workbench.compress import quantize, walk

    dense, errors = logits(tiny("llama"), tokens), []
    for budget in (walk.BUDGET, 1, None):  # one pass per block; one part of the text after the other; collected before
        model = tiny("llama")
        text = Calibration.collect(model, windows[:6]) if budget is None else windows[:6]  # of one length: one pass
        monkeypatch.setattr(quantize, "walk", functools.partial(walk.walk, budget=budget))
        quantize_model(model, method="awq", bits=4, group_size=32, calibration=text)
        errors.append(float((logits(model, tokens) - dense).norm() / dense.norm()))
    assert errors[0] == pytest.approx(errors[1], rel=0.01)
    assert (
        0 < errors[1] <= errors[2] < 1.4 * errors[1] < 0.2
    )  # collected before: layers do not see the errors before them


def test_layers_behind_the_first_of_a_group_meet_the_inputs_they_were_solved_for(tiny, windows, monkeypatch):
    """Both roads see the same inputs everywhere: records that expect divided ones may not enter a pass under way.

    Windows of one length, so that the first road is one pass.
    """
    from workbench.compress import quantize, walk

    seen = []
    solve = awq.Scaling.solve

    def watch(self, place, names, hessian):
        seen[-1][names[0]] = hessian.matrix()
        solve(self, place, names, hessian)

    monkeypatch.setattr(awq.Scaling, "solve", watch)
    for budget in (walk.BUDGET, 1):
        seen.append({})
        model = tiny("llama")
        with torch.no_grad():
            for block in model.model.layers:  # so that the scales are far from one
                block.input_layernorm.weight[::16] += 20
                block.post_attention_layernorm.weight[::16] += 20
        monkeypatch.setattr(quantize, "walk", functools.partial(walk.walk, budget=budget))
        quantize_model(model, method="awq", bits=4, group_size=32, calibration=windows[:6])
    assert len(seen[0]) == 8 and seen[0].keys() == seen[1].keys()
    for name, hessian in seen[0].items():
        assert float((hessian - seen[1][name]).norm() / hessian.norm()) < 0.01, name


def test_no_text_is_refused(tiny):
    from workbench.errors import UserError

    with pytest.raises(UserError, match="'awq' needs calibration text"):
        quantize_model(tiny("llama"), method="awq", bits=4, group_size=32)
