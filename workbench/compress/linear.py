"""`IntLinear` and `FloatLinear`: linear layers on the two packed records, with a gradient to their input.

    y = x · ŵᵀ + bias        x [..., in], ŵ [out, in] exists only in slices of about a million weights

Small batches of `IntLinear` go through torch's int4 kernel (`kernels.py`); larger ones, and all of `FloatLinear`,
dequantize one slice of output rows after the other, so that a slice stays in cache and the full matrix never exists.
Slices are computed in float32 on a CPU whatever the dtype of x (16-bit products are emulated on many CPUs and up to a
hundred times slower), in x's dtype on an accelerator. The weight takes no gradient: x does, so adapters train on top.

State dict of IntLinear: qweight uint8 [out, ceil(in·bits/8)], scales float16 [out, in/g], zeros uint8 (all zero points
as one packed stream; absent when symmetric), the record's optional parts where it has them, bias. It is the same whatever
the in-memory order, and casting the module (`.half()`, `.to(dtype)`) never touches scales.

A layer with outlier columns computes LLM.int8's product: its other inputs are rounded to 8 bits with one scale per token
(the gradient passes straight through), the outlier columns stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.compress import kernels
from workbench.compress.packing import pack, packed_width, unpack
from workbench.compress.records import IntWeight
from workbench.compress.rtn import resolve_group

SLICE = 1 << 20  # weights dequantized at a time


class _Product(torch.autograd.Function):
    """x · ŵᵀ with the gradient to x only."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.product_transposed(grad), None


class PackedLinear(nn.Module):
    """What both layers share: slices of the weight in, products out."""

    in_features: int
    out_features: int
    was_conv1d: bool = False  # takes the place of a GPT-2 Conv1D, whose weight is transposed

    def __init__(self, in_features: int, out_features: int, bias: bool, device=None, dtype=None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    def slices(self, dtype: torch.dtype):
        """Yield (start, stop, weight [stop − start, in]) over the output rows."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight [out, in]."""
        return torch.cat([part.to(dtype) for _, _, part in self.slices(self._work(dtype))])

    def product(self, x: Tensor, fast: bool | None = None) -> Tensor:
        """x [rows, in] → [rows, out] in x's dtype."""
        work = self._work(x.dtype)
        rows = x.to(work)
        y = torch.empty(len(x), self.out_features, dtype=work, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            for start, stop, weight in self.slices(work):
                torch.mm(rows, weight.t(), out=y[:, start:stop])
        return y.to(x.dtype)

    def product_transposed(self, grad: Tensor) -> Tensor:
        """grad [rows, out] → [rows, in] in grad's dtype."""
        work = self._work(grad.dtype)
        rows = grad.to(work)
        total = torch.zeros(len(grad), self.in_features, dtype=work, device=grad.device)
        with torch.autocast(grad.device.type, enabled=False):
            for start, stop, weight in self.slices(work):
                total.addmm_(rows[:, start:stop], weight)
        return total.to(grad.dtype)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        if flat.requires_grad and torch.is_grad_enabled():
            y = _Product.apply(flat, self)
        else:
            with torch.no_grad():
                y = self.product(flat)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.out_features)

    def _work(self, dtype: torch.dtype) -> torch.dtype:
        on_cpu = next(self.buffers()).device.type == "cpu"
        return torch.float32 if on_cpu and dtype != torch.float64 else dtype

    def _rows(self, multiple: int = 1) -> int:
        """Output rows per slice."""
        return max(1, SLICE // self.in_features // multiple) * multiple

    def _shield(self, fn, name: str) -> None:
        """Apply a `_apply` function (device moves, casts) to a float buffer through integers: moved, never cast."""
        stored = getattr(self, name)
        if stored is not None:
            as_int = torch.int16 if stored.element_size() == 2 else torch.int32
            setattr(self, name, fn(stored.view(as_int)).view(stored.dtype))


class IntLinear(PackedLinear):
    """A linear layer on an `IntWeight`.

    Args:
        in_features: input width.
        out_features: output width.
        bits: 2, 3, 4 or 8.
        group_size: weights per scale; None or −1: one scale per output channel.
        symmetric: no zero points stored.
        input_scaled: holds an input scale.
        outliers: number of outlier columns; None for a layer without that part.
        bias: add a bias.
        device: where the buffers are made ("meta" while transformers loads).
        dtype: dtype of the bias.
    """

    def __init__(
        self, in_features, out_features, *, bits, group_size, symmetric, input_scaled=False, outliers=None, bias=False,
        device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias, device, dtype)
        self.bits, self.symmetric = bits, symmetric
        self.group_size = resolve_group(in_features, group_size)
        groups = in_features // self.group_size
        byte = {"dtype": torch.uint8, "device": device}
        self.register_buffer("qweight", torch.zeros(out_features, packed_width(in_features, bits), **byte))
        self.register_buffer("scales", torch.ones(out_features, groups, dtype=torch.float16, device=device))
        stream = None if symmetric else torch.zeros(packed_width(out_features * groups, bits), **byte)
        self.register_buffer("zeros", stream)
        half, mixed = {"dtype": torch.float16, "device": device}, outliers is not None
        self.register_buffer("input_scale", torch.ones(in_features, **half) if input_scaled else None)
        columns = torch.zeros(outliers, dtype=torch.int32, device=device) if mixed else None
        self.register_buffer("outlier_columns", columns)
        self.register_buffer("outlier_values", torch.zeros(out_features, outliers, **half) if mixed else None)
        self.register_buffer("fast_codes", None, persistent=False)
        self.register_buffer("fast_scales", None, persistent=False)

    @classmethod
    def from_record(cls, record: IntWeight, bias: Tensor | None) -> IntLinear:
        """The layer that holds `record`."""
        out, width = record.codes.shape
        layer = cls(
            width, out, bits=record.bits, group_size=record.group_size, symmetric=record.symmetric, device="meta",
            **cls.parts(record),
        )  # fmt: skip
        for name, tensor in layer.pack_record(record).items():
            setattr(layer, name, tensor)
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return layer

    @staticmethod
    def parts(record: IntWeight | IntLinear) -> dict[str, Any]:
        """The optional parts of a record or layer as arguments of this class; empty for a plain one."""
        outliers = record.outliers if isinstance(record, IntWeight) else record.outlier_columns
        found: dict[str, Any] = {} if record.input_scale is None else {"input_scaled": True}
        if outliers is not None:
            found["outliers"] = len(outliers[0] if isinstance(record, IntWeight) else outliers)
        return found

    @staticmethod
    def pack_record(record: IntWeight) -> dict[str, Tensor]:
        """The buffers that hold a record, by name."""
        packed = {"qweight": pack(record.codes, record.bits), "scales": record.scales.contiguous()}
        if not record.symmetric:
            packed["zeros"] = pack(record.zeros.flatten(), record.bits)
        if record.input_scale is not None:
            packed["input_scale"] = record.input_scale
        if record.outliers is not None:
            packed["outlier_columns"], packed["outlier_values"] = record.outliers
        return packed

    def record(self) -> IntWeight:
        """The integers back, unpacked."""
        outliers = None if self.outlier_columns is None else (self.outlier_columns, self.outlier_values)
        return IntWeight(
            self.codes(), self.scales, self.zero_points(), self.bits, self.group_size, self.symmetric, self.input_scale,
            outliers,
        )  # fmt: skip

    def codes(self) -> Tensor:
        """Codes uint8 [out, in] from whichever order they are in."""
        if self.qweight is self.fast_codes:
            return kernels.gather(self.fast_codes, self.bits, self.out_features, self.in_features)
        return unpack(self.qweight, self.bits, self.in_features)

    def zero_points(self) -> Tensor:
        """Zero points uint8 [out, in/group_size]."""
        if self.symmetric:
            return torch.full_like(self.scales, 1 << (self.bits - 1), dtype=torch.uint8)
        return unpack(self.zeros, self.bits, self.scales.numel()).view_as(self.scales)

    def prepare(self) -> bool:
        """Put the codes in the kernel's order where the kernel can run them; True when it can. Idempotent.

        On a CPU the packed codes are then dropped (the state dict rebuilds them); on CUDA both stay in memory.
        """
        if self.fast_codes is not None:
            return True
        device = self.scales.device
        if not kernels.usable(self.out_features, self.in_features, self.group_size, device):
            return False
        self.fast_codes = kernels.arrange(self.codes(), self.bits)
        self.fast_scales = kernels.arrange_scales(self.scales, self.zero_points(), self.bits, self.group_size)
        if device.type == "cpu":
            self.qweight = self.fast_codes  # one tensor under both names
        return True

    def restore(self) -> None:
        """Back to the packed order alone."""
        if self.qweight is self.fast_codes:
            self.qweight = pack(self.codes(), self.bits)
        self.fast_codes = self.fast_scales = None

    def product(self, x: Tensor, fast: bool | None = None) -> Tensor:
        """x [rows, in] → [rows, out]; `fast` forces the kernel (True) or dequantize → GEMM (False)."""
        small = len(x) <= kernels.CUTOVER and x.dtype != torch.float64 if fast is None else fast
        small = small and self.prepare()
        if self.outlier_columns is not None:
            return self._mixed(x, small)
        if small:
            x = x if self.input_scale is None else x / self.input_scale.to(x.dtype)
            return kernels.small(x, self.fast_codes, self.fast_scales, self.group_size)
        return super().product(x)

    def _mixed(self, x: Tensor, small: bool) -> Tensor:
        """The product with outlier columns in float and all other inputs rounded to 8 bits, one scale per token."""
        columns = self.outlier_columns.long()
        apart = x[:, columns]
        rest = x.index_fill(1, columns, 0)
        step = (rest.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(x.dtype).tiny)
        rest = torch.round(rest / step)  # −127 … 127: exact in bfloat16
        if not small:
            return super().product((rest * step).index_copy(1, columns, apart))
        y = kernels.small(rest, self.fast_codes, self.fast_scales, self.group_size) * step
        return y + apart @ self.outlier_values.to(x.dtype).t()

    def slices(self, dtype: torch.dtype):
        zeros = self.zero_points()
        columns = None if self.outlier_columns is None else self.outlier_columns.long()
        divisor = None if self.input_scale is None else self.input_scale.to(dtype)
        in_order = self.qweight is not self.fast_codes
        step = self._rows() if in_order else self._rows(kernels.cpu_block())
        for start in range(0, self.out_features, step):
            stop = min(start + step, self.out_features)
            scale, zero = self.scales[start:stop].to(dtype), zeros[start:stop].to(dtype)
            if in_order:
                part = unpack(self.qweight[start:stop], self.bits, self.in_features).to(dtype)
                part.view(stop - start, -1, self.group_size).sub_(zero.unsqueeze(-1)).mul_(scale.unsqueeze(-1))
            else:
                part = kernels.tile(self.fast_codes, self.bits, start, stop, self.in_features, dtype)
                groups = part.view(-1, self.group_size, stop - start)
                groups.sub_(zero.t().unsqueeze(1)).mul_(scale.t().unsqueeze(1))
                part = part.t()
            if columns is not None:
                part[:, columns] = self.outlier_values[start:stop].to(dtype)
            yield start, stop, part if divisor is None else part.div_(divisor)

    def _apply(self, fn, recurse=True):
        self.restore()
        held = {name: getattr(self, name) for name in ("scales", "input_scale", "outlier_values")}
        for name in held:
            setattr(self, name, None)
        super()._apply(fn, recurse)
        for name, tensor in held.items():
            setattr(self, name, tensor)
            self._shield(fn, name)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.qweight is self.fast_codes:
            destination[prefix + "qweight"] = pack(self.codes(), self.bits)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.restore()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        kind += "" if self.input_scale is None else ", input scale"
        kind += "" if self.outlier_columns is None else f", {self.outlier_columns.numel()} outlier columns"
        return f"{self.in_features} → {self.out_features}, {self.bits} bits, group {self.group_size}, {kind}"
