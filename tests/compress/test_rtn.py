from __future__ import annotations

import pytest
import torch

from workbench.compress.records import integer_bits_per_weight
from workbench.compress.rtn import quantize_rtn
from workbench.errors import UserError


def test_worked_example():
    weight = torch.tensor([[-1.0, 0.0, 0.5, 2.0]])  # range 3, M = 3, scale 1, zero 1
    record = quantize_rtn(weight, bits=2, group_size=4)
    assert record.scales.tolist() == [[1.0]] and record.zeros.tolist() == [[1]]
    assert record.codes.tolist() == [[0, 1, 1, 3]]  # 0.5 rounds to even
    assert record.dequantize().tolist() == [[-1.0, 0.0, 0.0, 2.0]]
    centred = quantize_rtn(weight, bits=2, group_size=4, symmetric=True)  # scale 2·2/3, zero 2
    assert centred.zeros.tolist() == [[2]]
    assert centred.codes.tolist() == [[1, 2, 2, 3]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_error_is_at_most_half_a_step_where_the_grid_reaches(bits, symmetric):
    weight = torch.randn(12, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    record = quantize_rtn(weight, bits=bits, group_size=32, symmetric=symmetric)
    step = record.scales.double().repeat_interleave(32, 1)
    error = (weight - record.dequantize(torch.float64)).abs()
    reach = 1.01 * step if symmetric else 0.51 * step + 0.51 * step  # the zero point and the top may both round
    assert bool((error <= reach).all())
    inside = (record.codes > 0) & (record.codes < (1 << bits) - 1)
    assert bool((error[inside] <= 0.5001 * step[inside]).all())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_on_the_grid_stays_bit_for_bit(bits):
    record = quantize_rtn(torch.randn(8, 64), bits=bits, group_size=16)
    again = quantize_rtn(record.dequantize(), bits=bits, group_size=16)
    used = (record.codes.view(8, 4, 16).amax(-1) == (1 << bits) - 1) & (record.codes.view(8, 4, 16).amin(-1) == 0)
    same = again.codes.view(8, 4, 16) == record.codes.view(8, 4, 16)
    assert bool(used.any()) and bool(same[used].all())


def test_groups_of_one_sign_do_not_saturate():
    weight = torch.linspace(5, 6, 32)[None]
    record = quantize_rtn(weight, bits=4, group_size=32)
    assert record.zeros.item() == 0
    assert float((weight - record.dequantize()).abs().max()) <= 0.51 * record.scales.item()


def test_zeros_and_tiny_and_large_weights():
    assert quantize_rtn(torch.zeros(2, 8), bits=3, group_size=8).dequantize().tolist() == [[0.0] * 8] * 2
    tiny = torch.full((1, 8), 1e-12)
    assert float(quantize_rtn(tiny, bits=4, group_size=8).dequantize().abs().max()) < 1e-6
    with pytest.raises(UserError, match="too large for a float16 step"):
        quantize_rtn(torch.full((1, 8), 1e7), bits=4, group_size=8)


def test_bits_per_weight_of_published_settings():
    assert integer_bits_per_weight(2, 64, False) == pytest.approx(2.28, abs=0.005)  # EfficientQAT w2g64
    assert integer_bits_per_weight(2, 128, False) == pytest.approx(2.14, abs=0.005)
    assert integer_bits_per_weight(4, 128, True) == 4.125


def test_bad_groups_are_refused():
    with pytest.raises(UserError, match="group_size 48 does not divide the 64 input features"):
        quantize_rtn(torch.zeros(1, 64), bits=4, group_size=48)
    for bad in (0, -3, True):
        with pytest.raises(UserError, match="give a positive number, or None"):
            quantize_rtn(torch.zeros(1, 64), bits=4, group_size=bad)
    assert quantize_rtn(torch.ones(1, 64), bits=4, group_size=None).scales.shape == (1, 1)
