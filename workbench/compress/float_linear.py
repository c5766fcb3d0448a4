"""`FloatLinear`: a linear layer on a `FloatWeight` (NF4 or FP4).

No kernel of torch runs a table of floats, so every product dequantizes slice by slice: the format saves memory, not
time. The bytes keep bitsandbytes' order: the flattened weight, two codes a byte, the first in the high nibble. One
look-up per byte gives both values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.compress.linear import PackedLinear
from workbench.compress.nf4 import NEST, TABLES, blocks_of
from workbench.compress.records import FloatWeight


class FloatLinear(PackedLinear):
    """A linear layer on a `FloatWeight`.

    Args:
        in_features: input width.
        out_features: output width.
        kind: "nf4" or "fp4".
        block_size: weights of the flattened matrix per scale.
        double_quant: scales in 8 bits.
        bias: add a bias.
        device: where the buffers are made.
        dtype: dtype of the bias.
    """

    def __init__(
        self, in_features, out_features, *, kind, block_size=64, double_quant=False, bias=False, device=None, dtype=None
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.kind, self.block_size, self.double_quant = kind, block_size, double_quant
        numel = in_features * out_features
        blocks = blocks_of(numel, block_size)
        self.register_buffer("qweight", torch.zeros(-(-numel // 2), dtype=torch.uint8, device=device))
        kept = torch.uint8 if double_quant else torch.float32
        self.register_buffer("absmax", torch.zeros(blocks, dtype=kept, device=device))
        second = torch.zeros(blocks_of(blocks, NEST), device=device) if double_quant else None
        self.register_buffer("nested_absmax", second)
        self.register_buffer("nested_offset", torch.zeros((), device=device) if double_quant else None)

    @classmethod
    def from_record(cls, record: FloatWeight, bias: Tensor | None) -> FloatLinear:
        """The layer that holds `record`."""
        out, width = record.codes.shape
        double = record.nested is not None
        layer = cls(width, out, kind=record.kind, block_size=record.block_size, double_quant=double, device="meta")
        for name, tensor in layer.pack_record(record).items():
            setattr(layer, name, tensor)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer

    @staticmethod
    def pack_record(record: FloatWeight) -> dict[str, Tensor]:
        """The buffers that hold a record, by name."""
        flat = record.codes.flatten()
        flat = torch.nn.functional.pad(flat, (0, flat.numel() % 2)).view(-1, 2)
        packed = {"qweight": flat[:, 0] << 4 | flat[:, 1], "absmax": record.absmax}
        if record.nested is not None:
            packed["nested_absmax"], packed["nested_offset"] = record.nested
        return packed

    def record(self) -> FloatWeight:
        """The codes back, unpacked."""
        pairs = torch.stack([self.qweight >> 4, self.qweight & 15], -1).flatten()
        codes = pairs[: self.in_features * self.out_features].view(self.out_features, self.in_features)
        nested = (self.nested_absmax, self.nested_offset) if self.double_quant else None
        return FloatWeight(codes, self.absmax, nested, self.kind, self.block_size)

    def slices(self, dtype: torch.dtype):
        width, block = self.in_features, self.block_size
        if width % block or width % 2:  # blocks cross rows: one slice
            yield 0, self.out_features, self.record().dequantize(dtype)
            return
        nested = (self.nested_absmax, self.nested_offset) if self.double_quant else None
        scales = FloatWeight(self.qweight, self.absmax, nested, self.kind, block).scales().to(dtype)
        table = torch.tensor(TABLES[self.kind], device=self.qweight.device).to(dtype)
        pairs = torch.stack([table.repeat_interleave(16), table.repeat(16)], -1)  # [256, 2]: value of each nibble
        step = self._rows()
        for start in range(0, self.out_features, step):
            stop = min(start + step, self.out_features)
            stored = self.qweight[start * width // 2 : stop * width // 2]
            part = nn.functional.embedding(stored.int(), pairs).view(-1, block)
            part *= scales[start * width // block : stop * width // block].unsqueeze(1)
            yield start, stop, part.view(stop - start, width)

    def _apply(self, fn, recurse=True):
        held = {name: getattr(self, name) for name in ("absmax", "nested_absmax", "nested_offset")}
        held = {name: tensor for name, tensor in held.items() if tensor is not None and tensor.is_floating_point()}
        for name in held:
            setattr(self, name, None)
        super()._apply(fn, recurse)
        for name, tensor in held.items():
            setattr(self, name, tensor)
            self._shield(fn, name)
        return self

    def extra_repr(self) -> str:
        double = ", double quantization" if self.double_quant else ""
        return f"{self.in_features} → {self.out_features}, {self.kind}, block {self.block_size}{double}"
