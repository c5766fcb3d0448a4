from __future__ import annotations

import pytest
import torch

from workbench.compress import IntLinear, quantize_model
from workbench.compress.int8_mixed import find_outliers, quantize_int8_mixed
from workbench.compress.rtn import quantize_rtn
from workbench.compress.targets import find_targets
from workbench.errors import UserError


def spiked(tiny, kind="llama"):
    """A model whose first norm sends out two inputs far above 6."""
    model = tiny(kind)
    norm = model.model.layers[0].input_layernorm if kind == "llama" else model.transformer.h[0].ln_1
    with torch.no_grad():
        norm.weight[[5, 17]] = 40
    return model


def by_hand(x, weight, columns):
    """The product of the paper in float64, with the grid of the weights that the record states."""
    rest = [j for j in range(x.shape[1]) if j not in columns]
    step = weight[:, rest].abs().amax(1, keepdim=True) * 2 / 255
    step = step.half().double()
    rounded = torch.round(weight[:, rest] / step).clamp(-128, 127)
    c = x[:, rest].abs().amax(1, keepdim=True) / 127
    inside = torch.round(x[:, rest] / c) @ rounded.t() * c * step.t()
    return inside + x[:, columns] @ weight[:, columns].half().double().t()


def test_layer_equals_the_paper_by_hand():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 128, generator=generator)
    x = torch.randn(70, 128, generator=generator)
    columns = [7, 90]
    x[:, columns] *= 60
    layer = IntLinear.from_record(quantize_int8_mixed(weight, torch.tensor([90, 7])), None)
    want = by_hand(x.double(), weight.double(), columns)
    torch.testing.assert_close(layer(x).double(), want, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(layer.product(x.double()), want, atol=1e-6, rtol=1e-6)
    small = layer.product(x[:3], fast=True)  # the kernel's bfloat16 scales and outputs
    assert float((small.double() - want[:3]).norm() / want[:3].norm()) < 0.01
    plain = IntLinear.from_record(quantize_rtn(weight, bits=8, group_size=None), None)
    exact = x.double() @ weight.double().t()
    assert float((want - exact).norm()) < 0.3 * float((plain.product(x.double()) - exact).norm())


def test_without_the_outlier_columns_the_rest_of_a_token_is_lost():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 64, generator=generator), torch.randn(60, 64, generator=generator)
    x[:, 9] = 500
    exact = x @ weight.t()
    errors = [
        float((IntLinear.from_record(quantize_int8_mixed(weight, torch.tensor(columns)), None)(x) - exact).norm())
        for columns in ([9], torch.zeros(0, dtype=torch.int64).tolist())
    ]
    assert errors[0] < 0.05 * errors[1]


def test_bits_per_weight_count_the_float_columns():
    weight = torch.randn(64, 128)
    record = quantize_int8_mixed(weight, torch.tensor([1, 2, 3]))
    assert record.bits_per_weight == pytest.approx(8 + 16 / 128 + (16 * 64 + 32) * 3 / (64 * 128))
    layer = IntLinear.from_record(record, None)
    assert 8 * sum(b.numel() * b.element_size() for b in layer.buffers()) / weight.numel() == record.bits_per_weight
    assert torch.equal(layer.record().dequantize(), record.dequantize())
    torch.testing.assert_close(layer.dequantize(), record.dequantize())
    assert torch.equal(record.dequantize()[:, 1:4], weight[:, 1:4].half().float())


def test_outliers_are_found_where_they_are(tiny, windows):
    model = spiked(tiny)
    found = find_outliers(model, find_targets(model), windows)
    assert found["model.layers.0.self_attn.q_proj"].tolist() == [5, 17]
    assert found["model.layers.1.self_attn.q_proj"].tolist() == []
    assert find_outliers(model, find_targets(model), windows, threshold=1e9)["model.layers.0.mlp.up_proj"].numel() == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_model_saves_reloads_and_beats_plain_eight_bits(kind, tiny, windows, tokens, logits, tmp_path):
    model = spiked(tiny, kind)
    dense = logits(model, tokens)
    report = quantize_model(model, method="int8-mixed", calibration=windows)
    assert report.bits == 8 and 8 < report.bits_per_weight < 9
    answer = logits(model, tokens)
    error = float((answer - dense).norm() / dense.norm())
    assert 0 < error < 0.02
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(logits(again, tokens), answer)
    one, two = model.state_dict(), again.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    kept, source = (
        next(m for m in net.modules() if isinstance(m, IntLinear) and m.outlier_columns.numel())
        for net in (again, model)
    )
    kept.to(torch.float64)  # casting a model never touches what is stored
    assert torch.equal(kept.outlier_values, source.outlier_values) and kept.outlier_values.dtype == torch.float16
    assert kept.outlier_columns.dtype == torch.int32


def test_gradient_passes_straight_through():
    weight, x = torch.randn(16, 64), torch.randn(5, 64, requires_grad=True)
    layer = IntLinear.from_record(quantize_int8_mixed(weight, torch.tensor([3])), None)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.dequantize().sum(0).expand(5, -1))


def test_bad_input(tiny, windows):
    with pytest.raises(UserError, match="'int8-mixed' needs calibration text"):
        quantize_model(tiny("llama"), method="int8-mixed")
    with pytest.raises(UserError, match="int8-mixed has 8 bits, not 4; leave bits at 8"):
        quantize_model(tiny("llama"), method="int8-mixed", bits=4, calibration=windows)
    with pytest.raises(UserError, match="too large for float16"):
        quantize_int8_mixed(torch.full((2, 4), 1e6), torch.tensor([1]))
