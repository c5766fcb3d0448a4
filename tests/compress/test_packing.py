from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.compress.packing import pack, packed_width, unpack
from workbench.errors import UserError


def test_bytes_by_hand():
    assert pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 4).tolist() == [[0x21, 0x03]]
    assert pack(torch.tensor([[1, 2, 3, 0, 3]], dtype=torch.uint8), 2).tolist() == [[0b00111001, 0b11]]
    eight = torch.arange(8, dtype=torch.uint8)[None]  # 3 bits: 24 bits, code j at bit 3j, three bytes in order
    word = sum(j << (3 * j) for j in range(8))
    assert pack(eight, 3).tolist() == [[word & 255, word >> 8 & 255, word >> 16]]


def stream(codes: list[int], bits: int) -> list[int]:
    """The bit stream as one large integer: an independent road."""
    number = sum(code << (bits * j) for j, code in enumerate(codes))
    return list(number.to_bytes(-(-len(codes) * bits // 8), "little"))


@given(data=st.data(), bits=st.sampled_from([2, 3, 4, 8]), rows=st.integers(1, 3), n=st.integers(1, 41))
def test_round_trip_is_exact_and_dense(data, bits, rows, n):
    code = st.integers(0, (1 << bits) - 1)
    codes = data.draw(st.lists(st.lists(code, min_size=n, max_size=n), min_size=rows, max_size=rows))
    packed = pack(torch.tensor(codes, dtype=torch.uint8), bits)
    assert packed.shape == (rows, packed_width(n, bits)) == (rows, -(-n * bits // 8))
    assert packed.tolist() == [stream(row, bits) for row in codes]
    assert unpack(packed, bits, n).tolist() == codes


@pytest.mark.parametrize("bits", [0, 1, 5, 6, 16, True, "4"])
def test_other_widths_are_refused(bits):
    with pytest.raises(UserError, match="choose 2, 3, 4 or 8"):
        pack(torch.zeros(1, 8, dtype=torch.uint8), bits)


def test_a_code_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="code 8 does not fit in 3 bits; the largest is 7"):
        pack(torch.tensor([[8]], dtype=torch.uint8), 3)
