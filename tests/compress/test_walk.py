from __future__ import annotations

import copy

import pytest
import torch

from workbench.compress import Calibration, quantize_model
from workbench.compress.targets import find_targets, matrix
from workbench.compress.walk import find_blocks, walk
from workbench.errors import UserError

GROUPS = {
    "llama": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "gemma3": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize(("budget", "changes"), [(1 << 30, True), (1, True), (1, False)])
def test_hessians_equal_those_of_a_hooked_forward_pass(kind, budget, changes, tiny, windows):
    """All roads, masks and position embeddings included, against plain hooks on the whole model."""
    model = tiny(kind)
    targets = find_targets(model)
    seen: dict[str, list] = {name: [] for name in targets}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].flatten(0, 1)))
        for name, module in targets.items()
    ]
    with torch.no_grad():
        for window in windows:
            model(window)
    for handle in handles:
        handle.remove()
    groups, found = [], {}

    def keep(names, hessian):
        groups.append([name.rpartition(".")[2] for name in names])
        found.update(dict.fromkeys(names, hessian))

    assert walk(model, targets, windows, keep, budget=budget, changes=changes) == []
    assert groups == GROUPS[kind] * 2
    for name, inputs in seen.items():
        x = torch.cat(inputs)
        torch.testing.assert_close(found[name].matrix(), x.t() @ x / len(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("budget", [1 << 30, 1])
def test_later_layers_see_quantized_ones(budget, tiny, windows):
    """Zeroing each group as it is solved must silence everything after it: the inputs are those of the changed model."""
    model = tiny("llama")
    targets = find_targets(model)
    sizes = {}

    def silence(names, hessian):
        for name in names:
            sizes[name] = float(hessian.matrix().diagonal().sum())
            targets[name].weight.data.zero_()

    walk(model, targets, windows, silence, budget=budget)
    assert sizes["model.layers.0.self_attn.q_proj"] > 0
    assert sizes["model.layers.0.self_attn.o_proj"] == 0 and sizes["model.layers.0.mlp.down_proj"] == 0


def test_both_roads_give_the_same_codes(tiny, windows, monkeypatch):
    found = []
    same = [window for window in windows if window.shape[1] == 64]
    for limit in (10**9, 128):
        model = tiny("llama")
        monkeypatch.setattr("workbench.compress.walk.part_tokens", lambda *_, limit=limit: limit)
        # In the order of activations two nearly equal inputs may change places, and all codes after them.
        quantize_model(model, method="gptq", bits=3, group_size=32, calibration=same, act_order=False)
        found.append(model.state_dict())
    differing = [float((found[0][k] != found[1][k]).float().mean()) for k in found[0] if k.endswith("qweight")]
    assert max(differing) < 0.02  # sums in another order flip a few codes


def test_collected_calibration_serves_every_width(tiny, windows):
    model = tiny("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shared = Calibration.collect(model, windows)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert shared.tokens == 6 * 64 + 2 * 49
    errors = {}
    for bits in (2, 4):
        packed = copy.deepcopy(model)
        report = quantize_model(packed, method="gptq", bits=bits, group_size=32, calibration=shared)
        errors[bits] = [layer["error"] for layer in report.layers]
        assert len(report.layers) == len(find_targets(model)) and report.layers[0]["of"] == "output"
    assert all(four < two for four, two in zip(errors[4], errors[2], strict=True))
    with pytest.raises(UserError, match="belongs to another model"):
        quantize_model(tiny("gpt2"), method="gptq", group_size=32, calibration=shared)


def test_reported_error_is_the_output_error(tiny, windows):
    model = tiny("llama")
    dense = copy.deepcopy(model)
    shared = Calibration.collect(model, windows)
    report = quantize_model(model, method="gptq", bits=3, group_size=32, calibration=shared)
    for layer in report.layers:
        weight = matrix(dense.get_submodule(layer["name"]))
        change = weight - model.get_submodule(layer["name"]).dequantize()
        hessian = shared.hessians[layer["name"]].matrix()
        ratio = ((change @ hessian) * change).sum() / ((weight @ hessian) * weight).sum()
        assert layer["error"] == pytest.approx(float(ratio) ** 0.5, rel=0.1)  # it includes the damping


def test_layers_that_no_token_reaches_are_rounded_with_a_note(tiny, windows):
    model = tiny("llama")
    model.model.layers[1].mlp.spare = torch.nn.Linear(64, 64)
    report = quantize_model(model, method="gptq", bits=4, group_size=32, calibration=windows)
    assert report.notes == ["model.layers.1.mlp.spare: no calibration token reached it; rounded to nearest."]
    assert report.layers[-1]["of"] == "weight"


def test_models_without_one_stack_of_blocks_are_refused(tiny, windows):
    model = tiny("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(UserError, match="gptq walks one stack of blocks"):
        quantize_model(model, method="gptq", bits=4, group_size=32, calibration=windows)
    flat = torch.nn.Module()
    flat.config = model.config.__class__()
    flat.project = torch.nn.Linear(8, 8)
    with pytest.raises(UserError, match="no list of blocks to walk through"):
        find_blocks(flat, {"project": flat.project})
