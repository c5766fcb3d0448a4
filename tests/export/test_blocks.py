"""One block of every layout, its bytes written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from workbench.compress.records import IntWeight
from workbench.compress.rtn import quantize_rtn
from workbench.export import gguf_blocks


def half(value):
    return struct.pack("<e", value)


def test_q8_0_block_by_hand():
    row = torch.zeros(1, 32)
    row[0, 0], row[0, 1], row[0, 31] = 127.0, -2.5, 2.5  # d = 1; halves go away from zero
    data = gguf_blocks.encode(row, "q8_0")
    assert data.tobytes() == half(1.0) + bytes([127, 256 - 3] + [0] * 29 + [3])


def test_q4_0_block_by_hand():
    row = torch.zeros(1, 32)
    row[0, 0], row[0, 1], row[0, 16], row[0, 31] = -8.0, 7.0, 3.0, 3.49  # the largest is −8: d = 1
    data = gguf_blocks.encode(row, "q4_0").tobytes()
    assert data[:2] == half(1.0)
    assert data[2] == 0 | (3 + 8) << 4  # element 0 low, element 16 high
    assert data[3] == (7 + 8) | 8 << 4 and data[17] == 8 | (3 + 8) << 4
    assert all(byte == 8 | 8 << 4 for byte in data[4:17])


def test_q4_1_block_by_hand():
    row = torch.full((1, 32), 2.0)
    row[0, 0], row[0, 5], row[0, 20] = 17.0, 4.4, 9.5  # min 2, d = (17 − 2)/15 = 1; 7.5 goes up
    data = gguf_blocks.encode(row, "q4_1").tobytes()
    assert data[:4] == half(1.0) + half(2.0)
    assert data[4] == 15 and data[4 + 5] == 2 and data[4 + 4] == 8 << 4
    assert sum(data[4:]) == 15 + 2 + (8 << 4)


def test_blocks_of_codes_by_hand():
    codes = torch.zeros(1, 64, dtype=torch.uint8)
    codes[0, 0], codes[0, 16], codes[0, 63] = 3, 15, 1
    record = IntWeight(codes, torch.tensor([[0.5]]).half(), torch.tensor([[2]], dtype=torch.uint8), 4, 64, False)
    data = gguf_blocks.encode_record(record, "q4_1").tobytes()
    assert data[:5] == half(0.5) + half(-1.0) + bytes([3 | 15 << 4])
    assert data[20:24] == half(0.5) + half(-1.0) and data[-1] == 1 << 4  # both blocks have the group's step
    data = gguf_blocks.encode_record(record, "q8_0").tobytes()
    assert data[:3] == half(0.5) + bytes([1]) and data[3] == 256 - 2


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
def test_rounding_is_that_of_the_reference_package(kind):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(0)) * 0.1
    weight[3], weight[4, :32], weight[5] = 0, 5e-8, weight[5].round(decimals=1)
    found, wanted = gguf_blocks.encode(weight, kind), quantize(weight.numpy(), GGMLQuantizationType[kind.upper()])
    assert np.array_equal(found, wanted)
    back = dequantize(wanted, GGMLQuantizationType[kind.upper()])
    assert np.array_equal(gguf_blocks.decode(found, kind).numpy(), back)


@pytest.mark.parametrize(
    ("bits", "symmetric", "kind"),
    [
        (4, True, "q4_0"),
        (3, True, "q4_0"),
        (2, True, "q4_0"),
        (4, False, "q8_0"),
        (8, True, "q8_0"),
        (3, False, "q4_1"),
    ],
)
@pytest.mark.parametrize("group", [32, 64, None])
def test_codes_are_kept_exactly(bits, symmetric, kind, group):
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    record = quantize_rtn(weight, bits=bits, group_size=group, symmetric=symmetric)
    data = gguf_blocks.encode_record(record, kind)
    found = torch.from_numpy(dequantize(data, GGMLQuantizationType[kind.upper()]))
    error = (found - record.dequantize()).abs().max()
    if kind == "q4_1":  # the minimum is rounded to float16, no more
        assert error <= record.dequantize().abs().max() * 2**-10
    else:
        assert error == 0


def test_gptq_layer_by_hand():
    from workbench.compress.linear import IntLinear
    from workbench.export import gptq

    codes = torch.zeros(32, 32, dtype=torch.uint8)
    codes[0, :8] = torch.arange(8)  # output 0, inputs 0 … 7: one word 0x76543210
    codes[5, 9] = 15
    scales, zeros = torch.full((32, 1), 0.25).half(), torch.full((32, 1), 8, dtype=torch.uint8)
    zeros[1, 0] = 3
    layer = IntLinear.from_record(IntWeight(codes, scales, zeros, 4, 32, False), torch.ones(32))
    found, weight = gptq.convert("layer", layer, torch.float16)
    assert found["qweight"].shape == (4, 32) and found["qweight"].dtype == torch.int32
    assert int(found["qweight"][0, 0]) == 0x76543210 and int(found["qweight"][1, 5]) == 15 << 4
    assert found["qzeros"].shape == (1, 4)
    assert int(found["qzeros"][0, 1]) == 0x77777777 and int(found["qzeros"][0, 0]) == 0x77777727  # z − 1
    assert int(gptq.convert("layer", layer, torch.float16, version=2)[0]["qzeros"][0, 0]) & 0xFFFFFFFF == 0x88888838
    assert found["g_idx"].tolist() == [0] * 32 and found["bias"].dtype == torch.float16
    assert float(weight[0, 7]) == 0.25 * (7 - 8) and float(weight[1, 0]) == 0.25 * (0 - 3)


def test_three_bit_words_are_split_over_borders():
    from workbench.export import gptq

    codes = torch.zeros(1, 32, dtype=torch.uint8)
    codes[0, 10], codes[0, 21] = 0b101, 0b110  # bits 30–32 and 63–65
    low, middle, high = (word & 0xFFFFFFFF for word in gptq.words(codes, 3)[0].tolist())
    assert low == 0b01 << 30 and middle == 1 | (0 << 31) and high == 0b11
    assert torch.equal(gptq.stream(gptq.words(codes, 3), 3, 32)[0], codes[0].long())


def test_compressed_tensors_layer_by_hand():
    from workbench.compress.linear import IntLinear
    from workbench.export import compressed

    codes = torch.zeros(3, 12, dtype=torch.uint8)
    codes[0, :8], codes[2, 9] = torch.arange(8), 15
    scales, zeros = torch.full((3, 1), 0.5).half(), torch.tensor([[8], [3], [15]], dtype=torch.uint8)
    layer = IntLinear.from_record(IntWeight(codes, scales, zeros, 4, 12, False), None)
    found, weight = compressed.convert("layer", layer, torch.float32)
    assert found["weight_packed"].tolist() == [[0x76543210, 0], [0, 0], [0, 15 << 4]]
    assert found["weight_zero_point"].tolist() == [[0xF38]]  # along the outputs, first one lowest
    assert found["weight_shape"].tolist() == [3, 12] and found["weight_scale"].dtype == torch.float32
    assert float(weight[0, 7]) == 0.5 * (7 - 8) and float(weight[2, 9]) == 0
    symmetric = IntLinear.from_record(IntWeight(codes, scales, torch.full_like(zeros, 8), 4, 12, True), None)
    assert "weight_zero_point" not in compressed.convert("layer", symmetric, torch.float32)[0]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_both_decoders_give_the_record_back(bits, symmetric):
    from types import SimpleNamespace

    from workbench.compress.linear import IntLinear
    from workbench.export import compressed, gptq

    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(2)) + 0.2
    record = quantize_rtn(weight, bits=bits, group_size=32, symmetric=symmetric)
    layer = IntLinear.from_record(record, None)
    packing = SimpleNamespace(bits=bits, group_size=32, symmetric=symmetric)
    found, wanted = gptq.convert("layer", layer, torch.float32, version=2)
    assert torch.equal(gptq.decode(found, gptq.quantization(packing, 2)), wanted)
    found, wanted = compressed.convert("layer", layer, torch.float32)
    assert torch.equal(compressed.decode(found, compressed.quantization(packing, [])), wanted)
    assert torch.equal(wanted, record.dequantize())
