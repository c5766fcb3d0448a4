from __future__ import annotations

import pytest
import torch

from workbench.compress.nf4 import FP4, NF4, dynamic_map, nearest, quantize_float
from workbench.compress.records import float_bits_per_weight
from workbench.errors import UserError


def test_nf4_is_the_published_recipe():
    """Quantiles of N(0, 1), offset ½(1/32 + 1/30): eight on the right, seven on the left, zero between, scaled to ±1."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = 1 - (1 / 32 + 1 / 30) / 2
    right = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1].double())
    left = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1].double())
    table = torch.cat([left, torch.zeros(1).double(), right]).sort().values
    # the published table was made in float32, in which the offset itself is off by 3e-8 where the quantile is steep
    torch.testing.assert_close(torch.tensor(NF4).double(), table / table.abs().max(), atol=5e-7, rtol=0)


def test_tables_hold_zero_and_both_ends():
    assert list(NF4) == sorted(NF4) and len(set(NF4)) == 16
    assert len(set(FP4)) == 15  # ±0
    for table in (NF4, FP4):
        assert {0.0, 1.0, -1.0} <= set(table)


def test_nearest_against_the_whole_table():
    values = torch.linspace(-1.2, 1.2, 997)
    for table in (torch.tensor(NF4), torch.tensor(FP4)):
        found = table[nearest(values, table).int()]
        best = (values[:, None] - table).abs().amin(1)
        torch.testing.assert_close((found - values).abs(), best, atol=1e-7, rtol=0)


def test_worked_example():
    record = quantize_float(torch.tensor([[2.0, -2.0, 0.0, 0.9]]), block_size=4)
    assert record.absmax.tolist() == [2.0]
    assert record.codes.tolist() == [[15, 0, 7, 12]]  # 0.45 → 0.4407
    torch.testing.assert_close(record.dequantize(), 2 * torch.tensor([[1.0, -1.0, 0.0, NF4[12]]]))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_weights_on_the_table_come_back_exactly(kind):
    record = quantize_float(torch.randn(6, 128), kind=kind)
    again = quantize_float(record.dequantize(), kind=kind)
    assert torch.equal(again.dequantize(), record.dequantize())


def test_blocks_run_over_the_flattened_weight_with_a_short_last_one():
    weight = torch.randn(3, 50)
    record = quantize_float(weight, block_size=64)
    assert record.absmax.tolist() == [float(part.abs().max()) for part in weight.flatten().split(64)]
    assert record.dequantize().shape == weight.shape


def test_double_quantization_costs_little():
    weight = torch.randn(256, 512)
    plain, double = quantize_float(weight), quantize_float(weight, double_quant=True)
    assert torch.equal(plain.codes, double.codes) and double.absmax.dtype == torch.uint8
    change = (plain.dequantize() - double.dequantize()).norm() / plain.dequantize().norm()
    assert 0 < float(change) < 0.02
    assert plain.bits_per_weight == 4.5
    assert float_bits_per_weight(64, True) == pytest.approx(4.127, abs=1e-3)


def test_dynamic_map_has_256_entries_fine_near_zero():
    table = torch.tensor(dynamic_map())
    assert (
        len(table) == 256
        and table[-1] == 1
        and 0.0 in dynamic_map()
        and float(table[0]) == pytest.approx(-0.99297, abs=1e-5)
    )
    steps = table.diff()
    assert float(steps.min()) > 0 and float(steps[-5:].min()) > 100 * float(steps[128])


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="nf4"):
        quantize_float(torch.zeros(2, 2), kind="nf5")
    with pytest.raises(UserError, match="at least 2"):
        quantize_float(torch.zeros(2, 2), block_size=1)


def test_codes_equal_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(256, 192)
    for kind in ("nf4", "fp4"):
        packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
        record = quantize_float(weight, kind=kind)
        theirs = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], -1).view_as(record.codes)
        assert int((theirs != record.codes).sum()) <= weight.numel() // 10_000
        torch.testing.assert_close(state.absmax, record.absmax)
        _, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=True)
        record = quantize_float(weight, kind=kind, double_quant=True)
        assert int((state.absmax != record.absmax).sum()) <= 5  # ties of their 8-bit search, one code apart
        torch.testing.assert_close((state.offset, state.state2.absmax), (record.nested[1], record.nested[0]))
