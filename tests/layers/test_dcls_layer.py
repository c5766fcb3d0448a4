"""The DCLS layers: equal to torch's where they must be, to the released package, parameters, export, bad input."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench import layers as room
from workbench.errors import UserError
from workbench.layers import dcls
from workbench.layers.dcls import VERSIONS, Dcls2d, clamp_positions

CLASSES = {name: getattr(dcls, name) for name in dcls.__all__ if name.startswith("Dcls") and name != "Dcls"}
every = pytest.mark.parametrize("name", CLASSES)
versions = pytest.mark.parametrize("version", VERSIONS)


def build(name, **settings):
    torch.manual_seed(0)
    given = {"kernel_count": 5, "dilated_kernel_size": 5, "padding": 2, "groups": 2, "version": "v1"} | settings
    return CLASSES[name](4, 4, **given)


def picture(name, side=7, dtype=torch.float32):
    return torch.randn(2, 4, *(side,) * CLASSES[name].dims, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_whole_positions_make_a_dilated_convolution():
    layer = build("Dcls2d", kernel_count=9, version="v0").double()
    grid = torch.tensor([-2.0, 0, 2], dtype=torch.float64)
    with torch.no_grad():
        layer.P[0], layer.P[1] = grid.repeat(3), grid.repeat_interleave(3)
    x = picture("Dcls2d", dtype=torch.float64)
    dilated = F.conv2d(x, layer.weight.view(4, 2, 3, 3), layer.bias, padding=2, dilation=2, groups=2)
    torch.testing.assert_close(layer(x), dilated, rtol=1e-6, atol=1e-6)


@every
@versions
def test_equals_torch_with_the_dense_kernel_and_so_does_its_export(name, version):
    layer = build(name, version=version)
    x, kind = picture(name), "conv_transpose" if layer.transposed else "conv"
    plain = getattr(F, f"{kind}{layer.dims}d")(x, layer.dense_kernel(), layer.bias, padding=2, groups=2)
    torch.testing.assert_close(layer(x), plain)
    conv = layer.to_conv()
    torch.testing.assert_close(conv(x), plain)
    assert not any(p.requires_grad for p in conv.parameters())
    assert type(conv).__name__ == f"Conv{'Transpose' if layer.transposed else ''}{layer.dims}d"


@every
@versions
def test_number_of_parameters(name, version):
    layer = build(name, version=version)
    filters, m, n = 4 * 2, 5, layer.dims
    widths = n if version in ("max", "gauss") else 0
    assert sum(p.numel() for p in layer.parameters()) == filters * m * (1 + n + widths) + 4
    assert list(layer.state_dict()) == ["weight", "bias", "P", *(["SIG"] if widths else [])] or set(
        layer.state_dict()
    ) == {"weight", "P", "bias", *(["SIG"] if widths else [])}


@every
def test_two_optimizer_steps_move_every_parameter(name):
    layer = build(name, version="gauss")
    before = {key: p.detach().clone() for key, p in layer.named_parameters()}
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (layer(picture(name)) - 1).square().mean().backward()
        optimizer.step()
    assert all((p != before[key]).any() for key, p in layer.named_parameters())


def test_a_position_is_found_by_gradient_descent():
    torch.manual_seed(0)
    layer = Dcls2d(1, 1, 1, 11, padding=5, bias=False, version="gauss")
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.SIG.fill_(1.5)  # wide enough to feel a target four pixels away
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 1, 20, 20)
    target = F.pad(x, (4, 0, 0, 0))[..., :20]  # shifted four pixels to the right
    optimizer = torch.optim.Adam([layer.P, layer.SIG], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
        clamp_positions(layer)
    torch.testing.assert_close(layer.P.flatten().tolist(), [-4.0, 0.0], rtol=0, atol=0.1)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_padding_modes_strides_and_groups_equal_torchs(mode, stride, groups):
    layer = build("Dcls2d", padding_mode=mode, stride=stride, groups=groups, dilated_kernel_size=9, padding=4)
    x = picture("Dcls2d", side=12)
    conv = nn.Conv2d(4, 4, 9, stride=stride, padding=4, groups=groups, padding_mode=mode)
    with torch.no_grad():
        conv.weight.copy_(layer.dense_kernel())
        conv.bias.copy_(layer.bias)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [4, 9])
@versions
def test_layers_of_the_released_package_start_equal_and_compute_the_same(side, version):
    modules = pytest.importorskip("DCLS.construct.modules")
    given = {"kernel_count": 6, "dilated_kernel_size": side, "padding": 4, "groups": 4, "version": version}
    torch.manual_seed(3)
    theirs = modules.Dcls2d(4, 4, **given)
    torch.manual_seed(3)
    ours = Dcls2d(4, 4, **given)
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    same = Dcls2d(4, 4, **given, variant="reference")
    same.load_state_dict(theirs.state_dict())
    x = picture("Dcls2d", side=14)
    torch.testing.assert_close(same(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_positions_exact():
    layer = build("Dcls2d", version="gauss")
    places = layer.P.detach().clone()
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16 and layer.P.dtype == layer.SIG.dtype == torch.float32
    assert torch.equal(layer.P, places)
    assert layer(picture("Dcls2d").bfloat16()).dtype == torch.bfloat16
    assert build("Dcls2d", dtype=torch.bfloat16).P.dtype == torch.float32
    assert layer.double().P.dtype == torch.float64


def test_a_picture_without_batch_and_a_copy():
    layer = build("Dcls2d", groups=4, method="fft")
    x = picture("Dcls2d")
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert "version=v1" in repr(layer)


def test_clamping_keeps_even_kernels_inside_and_reference_does_not():
    for variant, largest in (("correct", 1.0), ("reference", 2.0)):
        layer = build("Dcls2d", dilated_kernel_size=4, variant=variant)
        with torch.no_grad():
            layer.P.fill_(5.0)
        layer.clamp_positions()
        assert layer.P.unique().tolist() == [largest]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "v2"}, "did you mean v"), ({"variant": "old"}, "DCLS variant"), ({"groups": 3}, "split into 3 groups"),
        ({"kernel_count": 0}, "at least 1 weight"), ({"dilated_kernel_size": 0}, "dilated_kernel_size = 0"),
        ({"dilated_kernel_size": (5, 5, 5)}, "2 whole numbers"), ({"stride": 0}, "stride = 0"),
        ({"padding": -1}, "padding = -1"), ({"padding_mode": "zero"}, "did you mean zeros"),
        ({"method": "gemm"}, "way to convolve"),
        ({"output_padding": 1}, "belongs to transposed"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        build("Dcls2d", **change)


def test_bad_uses_are_refused():
    with pytest.raises(UserError, match="pads with zeros only"):
        build("DclsTranspose2d", padding_mode="circular")
    with pytest.raises(UserError, match="give \\(batch, 4, H, W\\)"):
        build("Dcls2d")(torch.randn(2, 3, 7, 7))
    with pytest.raises(UserError, match="no number of axes"):
        dcls.Dcls(4, 4, 5, 5)
    with pytest.raises(TypeError):
        Dcls2d(4, 4, 5, 1, 2, 5)  # the package's order of arguments does not silently mean something else


def test_the_room_names_its_layers():
    for name, (where, text) in room.LAYERS.items():
        module, _, attribute = where.partition(":")
        assert getattr(__import__(module, fromlist=[attribute]), attribute) in CLASSES.values(), name
        assert text
