from __future__ import annotations

import pytest
import torch

from workbench.compress import kernels
from workbench.compress.float_linear import FloatLinear
from workbench.compress.linear import IntLinear
from workbench.compress.nf4 import quantize_float
from workbench.compress.rtn import quantize_rtn

GRIDS = [(bits, group, symmetric) for bits in (2, 3, 4, 8) for group in (32, None, 16) for symmetric in (False, True)]


def integer(bits=4, group=32, symmetric=False, out=96, width=64):
    generator = torch.Generator().manual_seed(bits)
    record = quantize_rtn(
        torch.randn(out, width, generator=generator), bits=bits, group_size=group, symmetric=symmetric
    )
    return record, IntLinear.from_record(record, torch.randn(out, generator=generator))


def floating(double_quant=False, out=33, width=64):
    record = quantize_float(torch.randn(out, width), double_quant=double_quant)
    return record, FloatLinear.from_record(record, torch.randn(out))


@pytest.mark.parametrize(("bits", "group", "symmetric"), GRIDS)
def test_products_equal_the_dequantized_weight(bits, group, symmetric):
    record, layer = integer(bits, group, symmetric)
    dense = record.dequantize()
    large = torch.randn(100, 64)
    want = large @ dense.t() + layer.bias
    packed = layer(large)  # packed order
    torch.testing.assert_close(packed, want, atol=1e-4, rtol=1e-4)
    small = layer(large[:5])  # kernel, where the group has one: bfloat16 inputs, scales and outputs
    scale = want[:5].abs().max()
    assert float((small - want[:5]).abs().max()) < 0.02 * float(scale)
    torch.testing.assert_close(layer(large), want, atol=1e-4, rtol=1e-4)  # kernel order, read back
    assert torch.equal(layer.codes(), record.codes) and torch.equal(layer.dequantize(), dense)


def test_the_kernel_is_used_on_this_kind_of_machine():
    """Without this, the products above could all have taken the slow road. Old CPUs and others keep the packed order."""
    if kernels.cpu_block() is None:
        pytest.skip("this CPU arranges int4 weights in an order that is not read here")
    _, layer = integer(out=128)  # a whole number of the kernel's blocks of 32 or 64 rows
    layer(torch.randn(1, 64))
    assert layer.fast_codes is not None and layer.qweight is layer.fast_codes


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_state_dict_is_the_same_in_both_orders(bits):
    record, layer = integer(bits)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    answer = layer(torch.ones(1, 64))
    after = layer.state_dict()
    assert before.keys() == after.keys() == {"qweight", "scales", "zeros", "bias"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = IntLinear(64, 96, bits=bits, group_size=32, symmetric=False, bias=True)
    again(torch.ones(1, 64))  # in kernel order before loading
    again.load_state_dict(after)
    assert torch.equal(again.codes(), record.codes) and torch.equal(again(torch.ones(1, 64)), answer)


def test_memory_holds_the_codes_once():
    record, layer = integer(4, 32)
    layer(torch.ones(1, 64))
    held = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())  # one tensor counts once
    assert held * 8 / record.codes.numel() < 4 + 16 / 32 + 4 / 32 + 32 / 32 + 0.1  # codes, scales, zeros, kernel scales


@pytest.mark.parametrize("make", [integer, floating])
def test_casting_the_module_leaves_scales_alone(make):
    record, layer = make()
    layer(torch.ones(1, 64))
    for cast in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.float()):
        layer = cast(layer)
        assert torch.equal(layer.dequantize(), record.dequantize())
    assert layer.bias.dtype == torch.float32


@pytest.mark.parametrize("make", [integer, floating])
@pytest.mark.parametrize("prepared", [False, True])
def test_gradient_to_the_input_equals_autograd(make, prepared):
    record, layer = make()
    if prepared and isinstance(layer, IntLinear):
        layer.prepare()
    dense = record.dequantize(torch.float64)
    x = torch.randn(2, 30, 64, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 30, layer.out_features, dtype=torch.float64)
    (layer.double()(x) * target).sum().backward()
    want = x.detach().clone().requires_grad_()
    ((want @ dense.t() + layer.bias.double()) * target).sum().backward()
    torch.testing.assert_close(x.grad, want.grad)


def test_autocast_does_not_reach_the_product():
    _, layer = integer()
    x = torch.randn(100, 64)
    plain = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain)


def test_slices_do_not_change_the_product(monkeypatch):
    for make in (integer, floating):
        record, layer = make()
        x = torch.randn(60, 64)
        whole = layer(x)
        monkeypatch.setattr("workbench.compress.linear.SLICE", 64 * 33)
        assert len(list(layer.slices(torch.float32))) > 1 or make is floating
        torch.testing.assert_close(layer(x), whole)
        torch.testing.assert_close(layer.dequantize(), record.dequantize())
        monkeypatch.undo()


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("width", [64, 128, 50, 7])
def test_float_layer_equals_its_record(double_quant, width):
    record, layer = floating(double_quant, width=width)
    torch.testing.assert_close(layer.dequantize(), record.dequantize(), atol=0, rtol=0)
    x = torch.randn(3, width)
    torch.testing.assert_close(layer(x), x @ record.dequantize().t() + layer.bias, atol=1e-4, rtol=1e-4)
    again = FloatLinear(width, 33, kind="nf4", double_quant=double_quant, bias=True)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_every_shape_of_input():
    _, layer = integer()
    assert layer(torch.ones(64)).shape == (96,)
    assert layer(torch.ones(0, 64)).shape == (0, 96)
    assert layer(torch.ones(2, 3, 64)).shape == (2, 3, 96)


def test_cutover_is_measured_on_both_roads():
    rows = kernels.measure_cutover(out=64, width=64, repeats=1)
    assert [row["rows"] for row in rows][:3] == [1, 2, 4]
    assert all(row["kernel_ms"] > 0 and row["gemm_ms"] > 0 for row in rows)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_cuda_kernel_equals_the_dequantized_weight(bits):
    record, layer = integer(bits, out=128, width=256)
    layer = layer.cuda()
    x = torch.randn(4, 256, device="cuda")
    want = x @ record.dequantize().cuda().t() + layer.bias
    assert float((layer(x) - want).abs().max()) < 0.02 * float(want.abs().max())
    assert torch.equal(layer.cpu().codes(), record.codes)
