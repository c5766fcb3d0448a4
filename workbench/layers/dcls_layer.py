"""The DCLS layers, 1-d to 3-d and transposed: build the dense kernel from (weights, positions), then convolve.

    y = convolution(x, K(weight, P, SIG)) + bias

One class holds what the six share; they differ in the number of axes and in which way the convolution runs. A layer has
O·I·m weights, n·O·I·m positions, as many widths for `max` and `gauss`, and O biases (I = channels in / groups).

Shapes: x (N, C_in, …) or (C_in, …); weight (O, I, m), P and SIG (n, O, I, m). A transposed layer swaps the first two axes of
these as torch's own does: weight (C_in, C_out / groups, m).

Source: Khalfaoui-Hassani, Pellegrini, Masquelier, ICLR 2023, arXiv 2112.03740, §3; initialisation and the names of parameters
as in PyPI `DCLS` 0.1.1, so that equal seeds give equal layers. Departures: see `dcls_kernel`; the transposed layers, which the
released code prepares and never finishes; arguments after the kernel size by name only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from workbench.errors import UserError, choose
from workbench.layers.dcls_convolve import METHODS, convolve, convolve_transposed
from workbench.layers.dcls_kernel import SMALLEST_SIGMA, VARIANTS, VERSIONS, construct_kernel, limits

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
START_SIG = {"max": 0.0, "gauss": 0.23}  # σ starts at 1 and at 0.5 pixels


class Dcls(nn.Module):
    """What all DCLS layers share; build one of `Dcls1d`, `Dcls2d`, `Dcls3d` or their transposed forms.

    Args:
        in_channels, out_channels: of the input and output.
        kernel_count: weights m per filter.
        dilated_kernel_size: sides s of the dense kernel, one number for all axes or one each.
        stride, padding, groups, bias, padding_mode: as in torch's convolutions.
        output_padding: of a transposed layer, as in torch's.
        version: `v0`, `v1`, `max` or `gauss` (see `dcls_kernel`).
        variant: `correct`, or `reference` for the released behaviour.
        method: `auto`, `direct` or `fft` (see `dcls_convolve`).
        device, dtype: of the parameters.

    Raises:
        UserError: a size, count, channel number, version, variant, padding mode or method that cannot be.
    """

    dims = 0
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_count: int, dilated_kernel_size: int | Sequence[int], *,
        stride: int | Sequence[int] = 1, padding: int | Sequence[int] = 0, output_padding: int | Sequence[int] = 0,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", version: str = "gauss", variant: str = "correct",
        method: str = "auto", device: torch.device | str | None = None, dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not self.dims:
            raise UserError("Dcls has no number of axes; build Dcls1d, Dcls2d, Dcls3d or a DclsTranspose of them.")
        self.version = choose("DCLS version", version, VERSIONS)
        self.variant = choose("DCLS variant", variant, VARIANTS)
        self.method = choose("way to convolve", method, METHODS)
        self.padding_mode = choose("padding mode", padding_mode, PADDING_MODES)
        if self.transposed and padding_mode != "zeros":
            raise UserError(f"A transposed layer pads with zeros only, not {padding_mode!r}; leave padding_mode out.")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels < 1 or channels % groups:
                raise UserError(f"{name} = {channels} cannot be split into {groups} groups; take a multiple of groups.")
        if kernel_count < 1:
            raise UserError(f"kernel_count = {kernel_count}: a filter needs at least 1 weight.")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_count = kernel_count
        self.dilated_kernel_size = self._sides("dilated_kernel_size", dilated_kernel_size, 1)
        self.stride, self.padding = self._sides("stride", stride, 1), self._sides("padding", padding, 0)
        self.output_padding = self._sides("output_padding", output_padding, 0)
        if any(self.output_padding) and not self.transposed:
            raise UserError("output_padding belongs to transposed layers; leave it out.")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape, kind = (first, second // groups, kernel_count), {"device": device, "dtype": dtype}
        exact = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        place = {"device": device, "dtype": exact}
        self.weight = nn.Parameter(torch.empty(shape, **kind))
        self.P = nn.Parameter(torch.empty(self.dims, *shape, **place))
        self.SIG = nn.Parameter(torch.empty(self.dims, *shape, **place)) if version in SMALLEST_SIGMA else None
        self.bias = nn.Parameter(torch.empty(out_channels, **kind)) if bias else None
        self.reset_parameters()

    def _sides(self, name: str, value: int | Sequence[int], least: int) -> tuple[int, ...]:
        sides = (value,) * self.dims if isinstance(value, int) else tuple(value)
        if len(sides) != self.dims or any(not isinstance(s, int) or s < least for s in sides):
            raise UserError(f"{name} = {value!r} does not fit; give {self.dims} whole numbers from {least} up, or one.")
        return sides

    def reset_parameters(self) -> None:
        """Draw the starting values: weights as torch's convolutions do, positions from N(0, ½ pixel)."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        with torch.no_grad():
            for row in self.P:
                row.normal_(0, 0.5)
            self.clamp_positions()
            if self.SIG is not None:
                self.SIG.fill_(START_SIG[self.version])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Dcls:
        """As torch's, but positions and widths keep single precision: half of it cannot tell 7.5 from 7.53 pixels."""
        kept = {name: p.data for name, p in self.named_parameters(recurse=False) if name in ("P", "SIG")}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = getattr(self, name)
            if now.dtype in (torch.float16, torch.bfloat16) and before.dtype == torch.float32:
                now.data = before.to(now.device)
        return self

    @torch.no_grad()
    def clamp_positions(self) -> None:
        """Move every position that has left the grid back to its border."""
        low, high = limits(self.dilated_kernel_size, self.variant, device=self.P.device, dtype=self.P.dtype)
        self.P.clamp_(low, high)

    def dense_kernel(self) -> Tensor:
        """The kernel (O, I, s…) of the present weights and positions, differentiable."""
        return construct_kernel(
            self.weight, self.P, self.SIG, self.dilated_kernel_size, self.version, variant=self.variant
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, …) or (C_in, …) → (N, C_out, …) or (C_out, …)."""
        if x.ndim not in (self.dims + 1, self.dims + 2) or x.shape[-self.dims - 1] != self.in_channels:
            axes = ", ".join("DHW"[-self.dims :])
            raise UserError(f"Input of shape {tuple(x.shape)} does not fit; give (batch, {self.in_channels}, {axes}).")
        kernel = self.dense_kernel()
        if self.transposed:
            return convolve_transposed(
                x, kernel, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.method
            )
        padding = self.padding
        if self.padding_mode != "zeros":
            around = [amount for side in reversed(padding) for amount in (side, side)]
            x, padding = nn.functional.pad(x, around, mode=self.padding_mode), (0,) * self.dims
        return convolve(x, kernel, self.bias, self.stride, padding, self.groups, self.method)

    def to_conv(self) -> nn.Module:
        """A plain torch convolution with the present dense kernel, frozen: same outputs, no positions."""
        name = f"Conv{'Transpose' if self.transposed else ''}{self.dims}d"
        extra = {"output_padding": self.output_padding} if self.transposed else {"padding_mode": self.padding_mode}
        conv = getattr(nn, name)(
            self.in_channels, self.out_channels, self.dilated_kernel_size, stride=self.stride, padding=self.padding,
            groups=self.groups, bias=self.bias is not None, device=self.weight.device, dtype=self.weight.dtype, **extra,
        )  # fmt: skip
        with torch.no_grad():
            conv.weight.copy_(self.dense_kernel())
            if self.bias is not None:
                conv.bias.copy_(self.bias)
        return conv.requires_grad_(False).train(self.training)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}, "
        text += f"dilated_kernel_size={self.dilated_kernel_size}, stride={self.stride}, padding={self.padding}, "
        return text + f"groups={self.groups}, version={self.version}, variant={self.variant}, method={self.method}"


class Dcls1d(Dcls):
    """1-d DCLS; arguments as `Dcls`."""

    dims = 1


class Dcls2d(Dcls):
    """2-d DCLS; arguments as `Dcls`."""

    dims = 2


class Dcls3d(Dcls):
    """3-d DCLS; arguments as `Dcls`."""

    dims = 3


class DclsTranspose1d(Dcls):
    """1-d transposed DCLS; arguments as `Dcls`."""

    dims, transposed = 1, True


class DclsTranspose2d(Dcls):
    """2-d transposed DCLS; arguments as `Dcls`."""

    dims, transposed = 2, True


class DclsTranspose3d(Dcls):
    """3-d transposed DCLS; arguments as `Dcls`."""

    dims, transposed = 3, True
