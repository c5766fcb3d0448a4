"""EfficientQAT: the fake quantizer's gradients, both phases, and what must stay as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from workbench.compress import Calibration, IntLinear, quantize_model
from workbench.compress import efficientqat as qat
from workbench.compress._block_fit import block_loss
from workbench.compress._fake_quant import FakeQuant, fake_quant
from workbench.compress.e2e_qp import StepLinear, e2e_qp
from workbench.compress.efficientqat import block_ap
from workbench.compress.ranges import fit_ranges
from workbench.compress.rtn import quantize_rtn
from workbench.errors import JobError, UserError

# peft asks transformers for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def pairs(weight, scales, zeros, bits):
    """The published formula from plain autograd: STE round and clamp of s and z, an ordinary clamp of q."""
    top = (1 << bits) - 1

    def through(x, y):
        return x + (y - x).detach()

    groups = weight.reshape(*scales.shape, -1)
    s = through(scales, scales.clamp(2.0**-24, 65504)).unsqueeze(-1)
    rounded = through(zeros, zeros.round())
    z = through(rounded, rounded.clamp(0, top)).unsqueeze(-1)
    ratio = groups / s
    q = (through(ratio, ratio.round()) + z).clamp(0, top)
    return ((q - z) * s).reshape(weight.shape)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_gradients_equal_those_of_the_formula_inside_and_outside(bits):
    torch.manual_seed(bits)
    weight = torch.randn(6, 32, dtype=torch.float64) * 2
    scales = torch.rand(6, 4, dtype=torch.float64) * 2 / (1 << bits) + 0.05  # small: many weights leave the range
    zeros = torch.rand(6, 4, dtype=torch.float64) * (1 << bits)  # not whole, some beyond the top
    grad = torch.randn(6, 32, dtype=torch.float64)
    found = []
    for function in (fake_quant, pairs):
        leaves = [t.clone().requires_grad_() for t in (weight, scales, zeros)]
        out = function(*leaves, bits)
        out.backward(grad)
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for mine, want in zip(*found, strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-12, atol=1e-12)
    passed = found[0][1] != 0
    assert 0.1 < float(passed.double().mean()) < 0.999  # both kinds were there
    assert bool((found[0][3] != 0).any())


def test_gradients_by_hand():
    """Two bits, s = 0.5, z = 1: codes 0 … 3 stand for −0.5, 0, 0.5, 1."""
    weight = torch.tensor([[0.3, 0.9, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    zeros = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    out = fake_quant(weight, scales, zeros, 2)
    assert out.tolist() == [[0.5, 1.0, 1.0, -0.5]]
    grads = []
    for column in range(4):
        grads.append([float(g.flatten()[column if i == 0 else 0]) for i, g in enumerate(
            torch.autograd.grad(out[0, column], (weight, scales, zeros), retain_graph=True))])  # fmt: skip
    want = [[1, 1 - 0.6, 0], [1, 2 - 1.8, 0], [0, 2, -0.5], [0, -1, -0.5]]
    for mine, row in zip(grads, want, strict=True):
        assert mine == pytest.approx(row)


@pytest.mark.parametrize(
    ("bits", "group", "symmetric"), [(2, 16, False), (3, None, True), (4, 32, False), (8, 64, False)]
)
def test_untrained_it_is_rounding_and_freezing_twice_changes_nothing(bits, group, symmetric):
    weight = torch.randn(5, 64)
    quant = FakeQuant(weight, bits, group, symmetric)
    record, rounded = quant.record(weight), quantize_rtn(weight, bits=bits, group_size=group, symmetric=symmetric)
    assert torch.equal(record.codes, rounded.codes) and torch.equal(record.scales, rounded.scales)
    assert torch.equal(record.zeros, rounded.zeros) and record.symmetric == symmetric
    frozen = record.dequantize()
    assert torch.equal(quant(weight), frozen) and torch.equal(quant(frozen), frozen)
    again = quant.record(frozen)
    assert torch.equal(again.codes, record.codes) and torch.equal(again.dequantize(), frozen)


def test_a_trained_grid_packs_to_what_training_saw_and_stays_on_the_grid():
    weight = torch.randn(4, 64)
    quant = FakeQuant(weight, 2, 16)
    with torch.no_grad():
        quant.scales.mul_(1.3)
        quant.zeros.add_(torch.tensor([-2.6, 0.4, 1.7, 5.0]))  # out of range on both sides
    record = quant.record(weight)
    assert int(record.zeros.max()) <= 3 and int(record.codes.max()) <= 3
    torch.testing.assert_close(record.dequantize(), quant(weight).detach(), rtol=2e-3, atol=1e-6)  # s is float16 now
    layer = IntLinear.from_record(record, None)
    x = torch.randn(40, 64)
    torch.testing.assert_close(layer(x), x @ record.dequantize().t(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.record().codes, record.codes)


def test_a_transposed_layer_is_quantized_along_its_inputs():
    weight = torch.randn(6, 32)
    plain, turned = FakeQuant(weight, 3, 16), FakeQuant(weight, 3, 16, transposed=True)
    assert torch.equal(turned(weight.t()), plain(weight).t())


def test_a_token_with_huge_states_does_not_decide_the_loss():
    target = torch.ones(1, 3, 4)
    target[0, 0] = 1e4
    out = target * torch.tensor([1.1, 1.2, 1.0]).view(1, 3, 1)
    assert float(block_loss(out, target)) == pytest.approx((0.01 + 0.04 + 0) / 3, rel=1e-4)
    assert float(block_loss(out, target, equal_tokens=False)) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_training_brings_every_block_nearer_to_the_float_block(kind, tiny, windows):
    model = tiny(kind)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    biases = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith("bias")}
    seen = []
    found = block_ap(
        model, windows, bits=2, group_size=32, epochs=6, progress=lambda *now: seen.append(now[0] / now[1])
    )
    assert [block["name"] for block in found] == [
        f"{'transformer.h' if kind == 'gpt2' else 'model.layers'}.{i}" for i in (0, 1)
    ]
    assert all(block["after"] < 0.9 * block["before"] for block in found)
    assert seen == sorted(seen) and seen[-1] == 1
    left = dict(model.named_parameters())
    assert all(torch.equal(left[name], tensor) for name, tensor in biases.items())
    assert all(p.requires_grad == flags[name] for name, p in left.items() if ".weight" in name)


def test_no_epochs_is_round_to_nearest(tiny, windows):
    one, two = tiny("llama"), tiny("llama")
    block_ap(one, windows, bits=3, group_size=32, epochs=0, clip=False)
    quantize_model(two, method="rtn", bits=3, group_size=32)
    first, second = one.state_dict(), two.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_no_epochs_with_clip_are_ranges_fitted_to_the_float_models_inputs(tiny, windows):
    model, packed = tiny("llama"), tiny("llama")
    met = Calibration.collect(model, windows)
    block_ap(packed, windows, bits=2, group_size=32, epochs=0)
    for name, hessian in met.hessians.items():
        scales, zeros = fit_ranges(model.get_submodule(name).weight.detach(), hessian.matrix(), 2, 32, False)
        record = packed.get_submodule(name).record()
        assert float((record.scales - scales).abs().max() / scales.abs().max()) < 0.06, (
            name
        )  # a candidate's step at most
        assert float((record.scales == scales).float().mean()) > 0.98, name
        assert float((record.zeros == zeros).float().mean()) > 0.98, name


def test_more_of_the_block_trained_is_nearer(tiny, windows):
    errors = []
    for parts in (("scales", "zeros"), qat.PARTS):
        found = block_ap(tiny("llama"), windows, bits=2, group_size=32, epochs=6, train=parts)
        errors.append(sum(block["after"] for block in found))
    assert errors[1] < errors[0]


def test_the_second_block_is_trained_on_the_quantized_stream(tiny, windows, monkeypatch):
    """Its input must be the first packed block's output, its target the float model's own hidden state."""
    model = tiny("llama")
    same = [window for window in windows if window.shape[1] == 64]
    with torch.no_grad():
        want = model.model(torch.cat(same), output_hidden_states=True).hidden_states
    seen, fit = [], qat.fit_block

    def watch(block, quants, stream, exact, *rest):
        seen.append((stream[0].clone(), exact[0].clone()))
        fit(block, quants, stream, exact, *rest)

    monkeypatch.setattr(qat, "fit_block", watch)
    packed = tiny("llama")
    block_ap(packed, same, bits=2, group_size=32)
    torch.testing.assert_close(seen[0][0], want[0])
    torch.testing.assert_close(seen[0][1], want[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        got = packed.model(torch.cat(same), output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(seen[1][0], got, rtol=1e-3, atol=1e-4)
    assert float((got - want[1]).norm() / want[1].norm()) > 0.02


@pytest.mark.parametrize("bits", [2, 8])
def test_steps_train_end_to_end_and_integers_stay(bits, tiny, windows, tokens, logits):
    model = tiny("llama")
    quantize_model(model, method="rtn", bits=bits, group_size=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = e2e_qp(model, windows, epochs=8, rate=0.01)
    assert len(losses) == 8 * 3 and sum(losses[-3:]) < sum(losses[:3])
    after = model.state_dict()
    changed = {name.rpartition(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"scales"}
    assert after["model.layers.0.mlp.up_proj.scales"].dtype == torch.float16
    fresh = tiny("llama")
    quantize_model(fresh, method="rtn", bits=bits, group_size=32)
    fresh.load_state_dict(after)
    assert torch.equal(logits(fresh, tokens), logits(model, tokens))


def test_gradients_of_a_step_layer_equal_those_of_the_dense_product():
    weight, x = torch.randn(6, 32), torch.randn(2, 5, 32)
    layer = StepLinear(IntLinear.from_record(quantize_rtn(weight, bits=3, group_size=16), torch.randn(6)))
    centred = layer.codes.float()
    scales, inputs = layer.scales.detach().clone().requires_grad_(), x.clone().requires_grad_()
    dense = nn.functional.linear(inputs, (centred * scales.unsqueeze(-1)).flatten(1), layer.bias)
    own = x.clone().requires_grad_()
    out = layer(own)
    torch.testing.assert_close(out, dense)
    grad = torch.randn_like(dense)
    dense.backward(grad), out.backward(grad)
    torch.testing.assert_close(own.grad, inputs.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.scales.grad, scales.grad, rtol=1e-5, atol=1e-5)


def test_both_phases_save_and_reload_bit_for_bit(tiny, windows, tokens, logits, tmp_path):
    model = tiny("gpt2")
    report = quantize_model(
        model, method="efficientqat", bits=3, group_size=32, calibration=windows, training={"batch_size": 2}
    )
    assert len(report.blocks) == 2 and len(report.losses) == 4 and report.settings["batch_size"] == 2
    assert model.config.quantization_config.method == "efficientqat"
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, tokens), logits(model, tokens))


def test_a_model_in_half_precision_keeps_its_type(tiny, windows, tokens, logits):
    model = tiny("llama").to(torch.bfloat16)
    found = block_ap(model, windows[:4], bits=4, group_size=32, epochs=4)
    assert all(block["after"] < block["before"] for block in found)
    assert logits(model, tokens).dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_what_cannot_be_trained_is_refused_before_anything_changes(tiny, windows):
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())

    def refused(match, **settings):
        with pytest.raises(UserError, match=match):
            quantize_model(model, **({"method": "efficientqat", "group_size": 32, "calibration": windows} | settings))
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    refused("'efficientqat' needs calibration text", calibration=None)
    refused("has 49 tokens, but .* has 128 input features; give at least 128", calibration=windows[-1:])
    refused(
        "epochs 0 and end_epochs 1 must be 1 or more. For one phase call block_ap or e2e_qp", training={"epochs": 0}
    )
    refused("did you mean epochs", training={"epoch": 2})
    refused("group_size 48 does not divide the 64 input features of model.layers.0", group_size=48)
    from workbench.compress import Calibration

    refused("trains on text; pass the windows", calibration=Calibration({}, [], 0))
    with pytest.raises(UserError, match="rtn trains nothing"):
        quantize_model(model, method="rtn", training={"epochs": 2})
    with pytest.raises(UserError, match="did you mean scales"):
        block_ap(model, windows, train=("scale",))
    with pytest.raises(UserError, match="no integer layers; quantize it first"):
        e2e_qp(model, windows)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_and_leaves_the_packed_model_as_it_was(tiny, windows):
    model = tiny("llama")
    quantize_model(model, method="rtn", bits=4, group_size=32)
    model.model.norm.weight.data[0] = math.inf
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(JobError, match="use a lower rate"):
        e2e_qp(model, windows)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_layers_outside_the_blocks_are_rounded(tiny, windows):
    model = tiny("llama")
    found = []
    targets = {**qat.find_targets(model), "extra": nn.Linear(64, 8)}
    qat.train_blocks(
        model, targets, windows, lambda name, record, *_: found.append((name, record)) or _swap(model, name, record), bits=4,
        group_size=32, symmetric=False, train=qat.PARTS, epochs=0, batch_size=4, weight_rate=0.01, quant_rate=0.01,
        equal_tokens=True, clip=True, progress=lambda *_: None,
    )  # fmt: skip
    assert found[-1][0] == "extra"
    assert torch.equal(found[-1][1].codes, quantize_rtn(targets["extra"].weight.detach(), bits=4, group_size=32).codes)


def _swap(model, name, record):
    if name != "extra":
        model.set_submodule(name, IntLinear.from_record(record, None))


def test_the_job_trains_on_the_training_part_and_foretells_its_memory(tmp_path):
    from types import SimpleNamespace

    from workbench import data, models
    from workbench.compress import job

    config = {"model": "tiny-lm", "method": "efficientqat", "bits": 2, "group_size": 32, "data": "moby-dick", "samples": 8,
              "window": 64}  # fmt: skip
    tokenizer = models.load_tokenizer("tiny-lm")
    windows = job.calibration(job.settings(config), tokenizer)
    train = data.split(data.load("moby-dick"), seed=0)["train"]
    assert all(map(torch.equal, windows, data.calibration(train, tokenizer, 8, 64, 0)))
    plan = job.forecast(config)
    block = 4 * 192 * 192 + 3 * 192 * 512 + 2 * 192
    assert plan["tokens_needed"] == 512 == plan["calibration_tokens"]
    assert 2 * 512 * 192 * 4 + 28 * block < plan["activation_bytes"] < 2 * 512 * 192 * 4 + 28 * block + 10_000_000
    seen = []
    context = SimpleNamespace(
        directory=tmp_path, config=config, progress=lambda *now: seen.append(now), should_stop=lambda: False
    )
    result = job.run(context)
    assert len(result["blocks"]) == 4 and len(result["losses"]) == 4
    assert sum(block["after"] < block["before"] for block in result["blocks"]) == 4
    assert seen[-1][0] == pytest.approx(seen[-1][1])
    assert models.load_model(result["path"]).config.quantization_config.method == "efficientqat"
