"""Applying dense kernels: transforms against torch's direct convolution, the choice between them, savings, errors."""

import pytest
import torch
from torch.nn import functional as F

from workbench.errors import UserError
from workbench.layers import dcls_convolve, dcls_fft
from workbench.layers.dcls_convolve import convolve, convolve_transposed, cut
from workbench.layers.dcls_fft import fft_depthwise, good_size, grid

SHAPES = [  # picture, kernel, padding
    ((20,), (9,), (4,)),
    ((14, 14), (17, 17), (8, 8)),
    ((9, 13), (5, 8), (2, 3)),
    ((12, 12), (6, 6), (0, 0)),
    ((5, 6), (3, 3), (4, 5)),  # more padding than the kernel reaches
    ((7, 7), (17, 17), (8, 8)),
    ((5, 6, 7), (3, 5, 4), (1, 2, 2)),
]


def direct(x, kernel, padding):
    return dcls_convolve.CONV[x.ndim - 2](x, kernel.unsqueeze(1), None, 1, padding, 1, kernel.shape[0])


@pytest.mark.parametrize(("picture", "sides", "padding"), SHAPES)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_forward_and_both_gradients_equal_the_direct_convolution(picture, sides, padding, block, monkeypatch):
    monkeypatch.setattr(dcls_fft, "BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *picture, generator=generator, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, *sides, generator=generator, dtype=torch.float64, requires_grad=True)
    ours, theirs = fft_depthwise(x, kernel, padding), direct(x, kernel, padding)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    pull = torch.randn(theirs.shape, generator=generator, dtype=torch.float64)
    for mine, wanted in zip(*(torch.autograd.grad(y, (x, kernel), pull) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)


def test_single_precision_stays_within_rounding():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 8, 28, 28, generator=generator, requires_grad=True)
    kernel = (0.02 * torch.randn(8, 17, 17, generator=generator)).requires_grad_()
    ours, theirs = fft_depthwise(x, kernel, (8, 8)), direct(x, kernel, (8, 8))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    mine, wanted = (torch.autograd.grad(y, (x, kernel), torch.ones_like(y)) for y in (ours, theirs))
    torch.testing.assert_close(mine[0], wanted[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mine[1], wanted[1], rtol=1e-5, atol=1e-3)  # sums of 3920 products, up to 150 in size


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_only_the_gradients_asked_for_are_made(wanted):
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64, requires_grad=wanted[0])
    kernel = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=wanted[1])
    y = fft_depthwise(x, kernel, (2, 2))
    torch.testing.assert_close(y.detach(), direct(x, kernel, (2, 2)).detach())
    if any(wanted):
        y.square().sum().backward()
        assert (x.grad is not None, kernel.grad is not None) == wanted
        assert all(t.grad.abs().sum() > 0 for t in (x, kernel) if t.requires_grad)


def test_channels_last_pictures_are_read_right():
    x = torch.randn(2, 6, 12, 12).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(6, 9, 9)
    torch.testing.assert_close(fft_depthwise(x, kernel, (4, 4)), direct(x, kernel, (4, 4)), rtol=0, atol=1e-4)


def test_sizes_of_the_transforms():
    assert [good_size(n) for n in (1, 7, 11, 13, 17, 31, 64, 97)] == [1, 8, 12, 15, 18, 32, 64, 100]
    assert grid((56, 56), (17, 17), (8, 8)) == (64, 64)  # a full convolution would need 72
    assert grid((12,), (5,), (0,)) == (12,)


def test_idle_taps_are_cut_and_the_result_stays():
    kernel = torch.randn(3, 1, 17, 17)
    small, padding = cut(kernel, (7, 40), (1, 1), (8, 8))
    assert small.shape[2:] == (13, 17) and padding == (6, 8)
    x = torch.randn(2, 3, 7, 40)
    torch.testing.assert_close(
        F.conv2d(x, small, None, 1, padding, 1, 3), F.conv2d(x, kernel, None, 1, 8, 1, 3), rtol=0, atol=1e-4
    )
    strided, padding = cut(kernel, (7, 7), (3, 3), (8, 8))
    torch.testing.assert_close(
        F.conv2d(x[..., :7], strided, None, 3, padding, 1, 3), F.conv2d(x[..., :7], kernel, None, 3, 8, 1, 3),
        rtol=0, atol=1e-4,
    )  # fmt: skip


def ways(monkeypatch):
    """Counts how often transforms are used."""
    used = []
    real = dcls_convolve.fft_depthwise
    monkeypatch.setattr(dcls_convolve, "fft_depthwise", lambda *a: used.append(1) or real(*a))
    return used


@pytest.mark.parametrize(
    ("sides", "stride", "groups", "expected"),
    [((17, 17), 1, 4, True), ((3, 3), 1, 4, False), ((17, 17), 2, 4, False), ((17, 17), 1, 2, False)],
)
def test_auto_takes_transforms_for_large_depthwise_kernels_only(sides, stride, groups, expected, monkeypatch):
    used = ways(monkeypatch)
    x, kernel, bias = torch.randn(2, 4, 24, 24), torch.randn(4, 4 // groups, *sides), torch.randn(4)
    padding = tuple(s // 2 for s in sides)
    y = convolve(x, kernel, bias, (stride,) * 2, padding, groups)
    torch.testing.assert_close(y, F.conv2d(x, kernel, bias, stride, padding, 1, groups), rtol=1e-5, atol=2e-4)
    assert bool(used) == expected


def test_a_picture_without_a_batch_and_half_precision():
    x, kernel, bias = torch.randn(4, 20, 20), torch.randn(4, 1, 17, 17), torch.randn(4)
    y = convolve(x, kernel, bias, (1, 1), (8, 8), 4, "fft")
    torch.testing.assert_close(y, F.conv2d(x, kernel, bias, 1, 8, 1, 4), rtol=1e-5, atol=2e-4)
    half = convolve(x.bfloat16(), kernel, bias, (1, 1), (8, 8), 4, "fft")
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("method", ["auto", "direct"])
def test_transposed_equals_torchs(groups, stride, method, monkeypatch):
    x = torch.randn(2, 4, 11, 11, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 4 // groups, 9, 9, dtype=torch.float64, requires_grad=True)
    used = ways(monkeypatch)
    ours = convolve_transposed(x, kernel, None, (stride,) * 2, (4, 4), (stride - 1,) * 2, groups, method)
    theirs = F.conv_transpose2d(x, kernel, None, stride, 4, stride - 1, groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert bool(used) == (method == "auto" and groups == 4 and stride == 1)
    for mine, wanted in zip(*(torch.autograd.grad(y.square().sum(), (x, kernel)) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stride": (2, 2)}, "the stride is"), ({"groups": 1, "kernel": torch.randn(4, 4, 9, 9)}, "not depthwise"),
        ({"method": "ftt"}, "did you mean fft"), ({"padding": (0, 0)}, "does not fit a picture"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(given, words):
    usual = {"x": torch.randn(1, 4, 8, 8), "kernel": torch.randn(4, 1, 9, 9), "stride": (1, 1), "padding": (4, 4),
             "groups": 4, "method": "fft"}  # fmt: skip
    with pytest.raises(UserError, match=words):
        convolve(**(usual | given))


def test_transforms_are_refused_for_a_strided_transposed_layer():
    with pytest.raises(UserError, match="stride 1"):
        convolve_transposed(torch.randn(1, 2, 8, 8), torch.randn(2, 1, 9, 9), None, (2, 2), (4, 4), (0, 0), 2, "fft")
