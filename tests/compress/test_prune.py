from __future__ import annotations

import copy
import json

import pytest
import torch

from workbench.compress.masks import check_nm
from workbench.compress.prune import PRUNERS, packed_bits, prune_model
from workbench.compress.targets import find_targets, matrix
from workbench.errors import UserError


def test_a_single_layer_by_hand(tiny):
    model = tiny("llama")
    layer = model.model.layers[0].mlp.down_proj
    weight = layer.weight.detach().clone()
    report = prune_model(model, method="magnitude", sparsity=0.75)
    border = weight.abs().flatten().sort().values[round(0.75 * weight.numel()) - 1]
    wanted = torch.where(weight.abs() > border, weight, 0.0)
    assert torch.equal(layer.weight, wanted)
    (row,) = [row for row in report.layers if row["name"].endswith("0.mlp.down_proj")]
    assert row["of"] == "weight" and row["sparsity"] == 0.75
    assert row["error"] == pytest.approx(float((weight - wanted).norm() / weight.norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_lie_where_the_masks_say_and_nothing_else_changes(kind, pattern, tiny, windows):
    model = tiny(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = prune_model(model, method="wanda", sparsity=0.5, pattern=pattern, calibration=windows)
    targets = find_targets(model)
    assert report.masks.keys() == targets.keys()
    for name, module in targets.items():
        weight, mask = matrix(module), report.masks[name]
        assert not bool(weight[~mask].any()) and bool((weight[mask] != 0).all())
        assert pattern == "unstructured" or check_nm(weight, 2, 4)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{name}.weight" for name in targets}
    assert report.sparsity == pytest.approx(0.5)


def test_output_error_equals_a_forward_pass_through_the_layer(tiny, windows):
    model = tiny("llama")
    dense, first = copy.deepcopy(model), "model.layers.0.self_attn.q_proj"
    seen = []
    handle = dense.get_submodule(first).register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for window in windows:
            dense(window)
    handle.remove()
    for method in PRUNERS:
        pruned = copy.deepcopy(model)
        report = prune_model(pruned, method=method, calibration=windows)
        change = matrix(dense.get_submodule(first)) - matrix(pruned.get_submodule(first))
        x = torch.cat(seen)
        wanted = (x @ change.t()).norm() / (x @ matrix(dense.get_submodule(first)).t()).norm()
        (row,) = [row for row in report.layers if row["name"] == first]
        assert row["of"] == "output" and row["error"] == pytest.approx(float(wanted), rel=1e-3)


def test_later_layers_are_pruned_on_pruned_inputs(tiny, windows):
    """With the first block left whole, the second one sees other inputs and keeps other weights."""
    whole, late = tiny("llama"), tiny("llama")
    report = prune_model(whole, method="wanda", sparsity=0.5, calibration=windows)
    alone = prune_model(late, method="wanda", sparsity=0.5, calibration=windows, skip=("lm_head", "model.layers.0"))
    name = "model.layers.1.mlp.down_proj"
    assert not torch.equal(report.masks[name], alone.masks[name])
    assert "model.layers.0.mlp.down_proj" not in alone.masks


def test_report_is_plain_data_with_the_promised_keys(tiny):
    report = prune_model(tiny("llama"), method="random", sparsity=0.5)
    plain = json.loads(json.dumps(report.to_dict()))
    assert {"method", "bits", "bytes", "bits_per_weight", "layers", "seconds", "peak_bytes"} <= plain.keys()
    assert "masks" not in plain and plain["bits_per_weight"] == 32
    assert plain["packed_bits_per_weight"] == pytest.approx(16 + 1)
    assert all({"name", "error"} <= layer.keys() for layer in plain["layers"])


def test_bits_of_a_packed_format_by_hand():
    assert packed_bits(16, 0.5, "unstructured") == 9  # half of 16, and one bit of place
    assert packed_bits(16, 0.0, "unstructured") == 16
    assert packed_bits(16, 0.5, "2:4") == pytest.approx(8 + 2.585 / 4, abs=1e-3)  # six choices for every four


def test_layers_that_no_token_reaches_fall_back_with_a_note(tiny, windows):
    model = tiny("llama")
    model.model.layers[1].mlp.spare = torch.nn.Linear(64, 64)
    report = prune_model(model, method="sparsegpt", calibration=windows)
    assert report.notes == ["model.layers.1.mlp.spare: no calibration token reached it; pruned by magnitude."]
    assert report.layers[-1]["of"] == "weight"


def test_tied_embeddings_and_the_head_stay(tiny):
    model = tiny("llama")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = model.lm_head.weight.detach().clone()
    prune_model(model, method="magnitude", sparsity=0.9, skip=())
    assert torch.equal(model.lm_head.weight, before) and model.lm_head.weight is model.model.embed_tokens.weight


def test_narrow_floats_and_training_mode_are_kept(tiny, windows):
    model = tiny("llama").to(torch.bfloat16).train()
    report = prune_model(model, method="magnitude")
    assert model.training and model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert report.bits == 16


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"method": "wander"}, "did you mean wanda"),
        ({"method": "magnitude", "sparsity": 1.0}, "from 0 to below 1"),
        ({"method": "magnitude", "pattern": "3:4"}, "choose one of: unstructured, 2:4, 4:8"),
        ({"method": "magnitude", "scope": "column"}, "no scope called 'column'"),
        ({"method": "wanda"}, "'wanda' needs calibration text"),
        ({"method": "wanda", "calibration": [torch.zeros(3, 4)]}, r"shape \(1, tokens\), not \(3, 4\)"),
        ({"method": "sparsegpt", "calibration": [torch.zeros(1, 64, dtype=torch.long)]}, "64 tokens, but .* 128 input"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(arguments, match, tiny):
    model = tiny("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=match):
        prune_model(model, **arguments)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_models_that_cannot_be_pruned_are_refused(tiny, windows):
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="up_proj holds NaN or infinite weights"):
        prune_model(model, method="magnitude")
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(66, 128)
    with pytest.raises(UserError, match=r"2:4 does not fit model.layers.0.mlp.up_proj: its 66 inputs"):
        prune_model(model, method="magnitude", pattern="2:4")
    from workbench.compress import quantize_model

    model = tiny("llama")
    quantize_model(model, method="rtn", bits=4, group_size=32)
    with pytest.raises(UserError, match="already quantized"):
        prune_model(model, method="magnitude")
    model = tiny("llama")
    model.config.is_encoder_decoder = True
    with pytest.raises(UserError, match="'wanda' walks one stack of equal blocks"):
        prune_model(model, method="wanda", calibration=windows)
