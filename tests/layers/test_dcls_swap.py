"""DCLS into a transformers ConvNeXt and out again, from convolutions, and from the released package's checkpoints."""

import pytest
import torch
from torch import nn
from transformers import ConvNextConfig, ConvNextForImageClassification

from workbench.errors import UserError
from workbench.layers.dcls import (
    VERSIONS,
    Dcls2d,
    Dcls3d,
    convert_positions,
    export_convs,
    from_conv,
    from_dcls,
    layers_of,
    limits,
    load_released,
    position_groups,
    replace_depthwise,
)
from workbench.layers.dcls_released import to_released


def convnext(depths=(2, 1)):
    torch.manual_seed(0)
    config = ConvNextConfig(
        num_channels=3, patch_size=2, num_stages=2, hidden_sizes=[8, 12], depths=list(depths), num_labels=3,
        layer_scale_init_value=0.5,
    )  # fmt: skip
    return ConvNextForImageClassification(config).eval()


def logits(model, side=24):
    with torch.no_grad():
        return model(pixel_values=torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))).logits


def test_every_block_of_a_convnext_gets_dcls_with_one_set_of_positions_per_stage():
    model = convnext()
    total = sum(p.numel() for p in model.parameters())
    names = replace_depthwise(model)
    assert names == [f"convnext.encoder.stages.{s}.layers.{i}.dwconv" for s, i in ((0, 0), (0, 1), (1, 0))]
    first, second, third = layers_of(model)
    assert first.P is second.P and first.P is not third.P and first.dilated_kernel_size == (17, 17)
    channels = 8 + 8 + 12
    assert sum(p.numel() for p in model.parameters()) == total + channels * (34 - 49) + (8 + 12) * 2 * 34
    assert 0.01 < first.weight.std() < 0.03 and not first.bias.any()
    assert logits(model).shape == (2, 3)


def test_it_trains_with_the_recipe():
    model = convnext().train()
    replace_depthwise(model, 9, 12)
    optimizer = torch.optim.AdamW(position_groups(model, 4e-3, 0.05))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values=torch.randn(4, 3, 16, 16), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        optimizer.step()
    assert all((p != before[name]).any() for name, p in model.named_parameters())


@pytest.mark.parametrize("version", ["v0", "v1", "max"])
@pytest.mark.parametrize("count", [49, 60])
def test_starting_from_the_old_taps_is_the_same_function(version, count):
    model = convnext()
    expected = logits(model)
    replace_depthwise(model, 13, count, version=version, share=False, start="conv")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert export_convs(model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert not [m for m in model.modules() if isinstance(m, Dcls2d)]


def test_fewer_weights_keep_the_largest_taps():
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    layer = from_conv(conv, 7, 5)
    kernel = layer.dense_kernel()[:, :, 2:5, 2:5]
    kept = kernel != 0
    assert kept.sum((-1, -2)).unique().tolist() == [5]
    torch.testing.assert_close(kernel[kept], conv.weight[kept])
    assert conv.weight.abs()[~kept].max() <= conv.weight.abs().amax() and torch.equal(layer.bias, conv.bias)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_long_kernel_from_a_conv_in_both_variants(version):
    conv = nn.Conv2d(3, 2, (3, 5), padding=(1, 2))
    x = torch.randn(1, 3, 12, 12)
    for variant in ("correct", "reference"):
        layer = from_conv(conv, (7, 9), version=version, variant=variant)
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: replace_depthwise(convnext(), 16), "odd side"),
        (lambda: replace_depthwise(convnext(), 5), "nothing to replace"),
        (lambda: replace_depthwise(nn.Linear(2, 2)), "nothing to replace"),
        (lambda: replace_depthwise(convnext(), start="conv"), "share=False"),
        (lambda: replace_depthwise(convnext(), start="old"), "choose one of"),
        (lambda: from_conv(nn.Conv2d(2, 2, 3, dilation=2), 9), "dilation 1"),
        (lambda: from_conv(nn.Conv2d(2, 2, 3), 8), "no middle place"),
        (lambda: from_dcls(nn.Conv2d(2, 2, 3)), "not a Dcls1d"),
        (lambda: export_convs(nn.Linear(2, 2)), "no DCLS layer to export"),
    ],
)
def test_what_cannot_be_swapped_is_refused(work, words):
    with pytest.raises(UserError, match=words):
        work()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [(9, 9), (5, 9), (6, 4), (3, 5, 7)])
def test_a_released_layer_computes_the_same_here(version, size):
    modules = pytest.importorskip("DCLS.construct.modules")
    torch.manual_seed(0)
    build = getattr(modules, f"Dcls{len(size)}d")
    theirs = build(4, 4, kernel_count=5, dilated_kernel_size=size, padding=2, groups=2, version=version)
    with torch.no_grad():  # inside the true grid, which the package's own start leaves at unequal or even sides
        low, high = limits(size)
        places = low + (high - low) * torch.rand(theirs.P.shape)
        theirs.P.copy_(to_released(places, size, version))
    ours = from_dcls(theirs)
    torch.testing.assert_close(ours.P, places)
    assert type(ours) is (Dcls2d if len(size) == 2 else Dcls3d)
    x = torch.randn(2, 4, *(9,) * len(size))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(from_dcls(theirs, variant="reference")(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_whole_released_checkpoint_loads(version):
    modules = pytest.importorskip("DCLS.construct.modules")
    given = {"kernel_count": 5, "dilated_kernel_size": 7, "padding": 3, "groups": 4, "version": version}
    torch.manual_seed(0)
    theirs = nn.Sequential(modules.Dcls2d(4, 4, **given), nn.GELU(), modules.Dcls2d(4, 4, **given))
    ours = nn.Sequential(Dcls2d(4, 4, **given), nn.GELU(), Dcls2d(4, 4, **given))
    x = torch.randn(2, 4, 11, 11)
    load_released(ours, theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    ours.load_state_dict(theirs.state_dict())  # without conversion: right for v1, transposed for v0
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5) == (version == "v1")


@pytest.mark.parametrize("version", VERSIONS)
def test_conversion_has_a_way_back(version):
    P, size = torch.randn(3, 2, 1, 4), (3, 4, 8)
    torch.testing.assert_close(to_released(convert_positions(P, size, version), size, version), P)
