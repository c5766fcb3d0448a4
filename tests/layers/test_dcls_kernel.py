"""The dense kernel of DCLS: by hand, against an independent formula, against the released package, edges and errors."""

import itertools
import math

import pytest
import torch

from workbench.errors import UserError
from workbench.layers.dcls import VERSIONS, Dcls2d, construct_kernel, convert_positions, limits

versions = pytest.mark.parametrize("version", VERSIONS)
WIDTH = {"max": 1.0, "gauss": 0.27}


def numbers(size, version, o=2, i=2, m=4, seed=0, dtype=torch.float64):
    """Random weights, positions on the grid and widths, all asking for gradients."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(o, i, m, generator=generator, dtype=dtype)
    low, high = limits(size, dtype=dtype)
    place = low + (high - low) * torch.rand(len(size), o, i, m, generator=generator, dtype=dtype)
    width = torch.rand(len(size), o, i, m, generator=generator, dtype=dtype) if version in WIDTH else None
    return [t if t is None else t.requires_grad_() for t in (weight, place, width)]


def plain(weight, P, SIG, size, version):
    """The definition, pixel by pixel, without any product form."""
    weight, P, SIG = (t if t is None else t.detach() for t in (weight, P, SIG))
    n, (o, i, m) = len(size), weight.shape
    kernel = torch.zeros(o, i, *size, dtype=weight.dtype)
    for a, b, k in itertools.product(range(o), range(i), range(m)):
        values = torch.zeros(size, dtype=weight.dtype)
        for pixel in itertools.product(*map(range, size)):
            value = 1.0
            for axis in range(n):
                row = n - 1 - axis
                distance = abs(pixel[axis] - float(P[row, a, b, k]) - size[axis] // 2)
                sigma = abs(float(SIG[row, a, b, k])) + WIDTH[version] if version in WIDTH else 1.0
                value *= math.exp(-0.5 * (distance / sigma) ** 2) if version == "gauss" else max(0.0, sigma - distance)
            values[pixel] = value
        if version != "v0":
            values /= values.sum() + 1e-7
        kernel[a, b] += weight[a, b, k].item() * values
    return kernel


def test_worked_example_by_hand():
    weight, P = torch.tensor([[[2.0]]]), torch.tensor([0.25, -1.5]).view(2, 1, 1, 1)  # x a quarter right, y 1½ up
    kernel = construct_kernel(weight, P, None, (5, 5), "v0")[0, 0]
    expected = torch.zeros(5, 5)
    expected[0:2, 2], expected[0:2, 3] = 2 * 0.5 * 0.75, 2 * 0.5 * 0.25
    assert torch.equal(kernel, expected)


@versions
@pytest.mark.parametrize("size", [(5,), (6,), (5, 5), (4, 7), (3, 4, 5)])
def test_equals_the_definition(version, size):
    weight, P, SIG = numbers(size, version)
    got = construct_kernel(weight, P, SIG, size, version)
    torch.testing.assert_close(got.detach(), plain(weight, P, SIG, size, version), rtol=1e-9, atol=1e-12)


@versions
def test_gradients_are_those_of_the_values(version):
    weight, P, SIG = numbers((5, 4), version, o=1, i=1, m=3)
    given = [t for t in (weight, P, SIG) if t is not None]
    assert torch.autograd.gradcheck(
        lambda w, p, *s: construct_kernel(w, p, s[0] if s else None, (5, 4), version), given
    )


@pytest.mark.parametrize("version", ["v1", "max", "gauss"])
def test_sums_to_the_sum_of_the_weights(version):
    weight, P, SIG = numbers((7, 9), version)
    total = construct_kernel(weight, P, SIG, (7, 9), version).sum((-1, -2))
    torch.testing.assert_close(total, weight.sum(-1), rtol=1e-5, atol=1e-6)  # 1e-7 in the denominator


def test_slope_at_a_whole_number_differs_between_v0_and_v1():
    slopes = {}
    for version in ("v0", "v1"):
        P = torch.zeros(1, 1, 1, 1, requires_grad=True)
        construct_kernel(torch.ones(1, 1, 1), P, None, (3,), version)[0, 0, 2].backward()
        slopes[version] = P.grad.item()
    assert slopes == {"v0": 1.0, "v1": 0.0}


@versions
@pytest.mark.parametrize("size", [(5,), (7, 7), (5, 5, 5)])
def test_values_and_gradients_are_those_of_the_released_package(version, size):
    modules = pytest.importorskip("DCLS.construct.modules")
    build = getattr(modules, f"ConstructKernel{len(size)}d")
    weight, P, SIG = numbers(size, version, o=3, i=2, m=5, dtype=torch.float32)
    theirs = build(3, 2, 1, 5, size, version)(weight, P, SIG)
    ours = construct_kernel(weight, convert_positions(P, size, version), SIG, size, version)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    given = [t for t in (weight, P, SIG) if t is not None]
    pull = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    for mine, wanted in zip(
        torch.autograd.grad(ours, given, pull), torch.autograd.grad(theirs, given, pull), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)


@versions
@pytest.mark.parametrize("size", [(4, 7), (6, 6), (3, 4, 5)])
def test_reference_gives_the_released_kernel_where_it_is_wrong_too(version, size):
    modules = pytest.importorskip("DCLS.construct.modules")
    weight, P, SIG = numbers(size, version, o=3, i=2, m=5, dtype=torch.float32)
    P = P.detach() * 1.5  # some outside
    theirs = getattr(modules, f"ConstructKernel{len(size)}d")(3, 2, 1, 5, size, version)(weight, P, SIG)
    ours = construct_kernel(weight, P, SIG, size, version, variant="reference")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_centre_of_a_long_kernel_is_its_middle_only_under_correct():
    weight, P = torch.ones(1, 1, 1), torch.zeros(2, 1, 1, 1)
    places = {
        variant: construct_kernel(weight, P, None, (5, 9), "v1", variant=variant)[0, 0].nonzero().tolist()
        for variant in ("correct", "reference")
    }
    assert places == {"correct": [[2, 4]], "reference": [[4, 2]]}


@pytest.mark.parametrize("version", ["v0", "v1", "max"])
def test_a_position_outside_is_read_at_the_border_and_can_come_back(version):
    size = (4, 4)
    weight, P, SIG = numbers(size, version, o=1, i=1, m=1)
    P = torch.full_like(P, 2.0).requires_grad_()  # the released clamping allows +2 at even size; the grid ends at +1
    low, high = limits(size)
    assert (low.flatten().tolist(), high.flatten().tolist()) == ([-2, -2], [1, 1])
    kernel = construct_kernel(weight, P, SIG, size, version)
    at_border = construct_kernel(weight, torch.ones_like(P), SIG, size, version)
    torch.testing.assert_close(kernel, at_border)
    kernel[0, 0, -1, -2].backward()
    assert weight.grad is None or version == "max" or weight.grad.abs().sum() == 0
    weight.grad = None
    kernel = construct_kernel(weight, P, SIG, size, version)
    kernel[0, 0, -1, -1].backward()
    assert weight.grad.item() > 0
    dead = construct_kernel(weight, P, SIG, size, version, variant="reference")
    assert version == "max" or not dead.any()


def test_a_position_that_is_not_a_number_shows():
    P = torch.full((1, 1, 1, 1), float("nan"))
    assert construct_kernel(torch.ones(1, 1, 1), P, None, (5,), "v1").isnan().any()


def test_gauss_holds_no_subnormal_number_and_loses_nothing_else():
    torch.manual_seed(0)
    layer = Dcls2d(16, 16, 34, 17, groups=16)
    tiny = torch.finfo(torch.float32).tiny
    ours, released = (
        construct_kernel(layer.weight, layer.P, layer.SIG, (17, 17), "gauss", variant=variant).detach()
        for variant in ("correct", "reference")
    )
    subnormal = (released != 0) & (released.abs() < tiny)
    assert subnormal.any() and not ours[subnormal].any()
    torch.testing.assert_close(ours[~subnormal], released[~subnormal], rtol=1e-6, atol=tiny)


def test_half_precision_weights_are_placed_in_single_precision():
    weight, P, _ = numbers((17, 17), "v1", dtype=torch.float32)
    half = construct_kernel(weight.detach().bfloat16(), P.detach(), None, (17, 17), "v1")
    assert half.dtype == torch.bfloat16
    exact = construct_kernel(weight.detach().bfloat16().float(), P.detach(), None, (17, 17), "v1")
    assert torch.equal(half, exact.bfloat16())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "gaus"}, "did you mean gauss"), ({"variant": "released"}, "choose one of: correct, reference"),
        ({"size": (0, 5)}, "cannot be built"), ({"size": (5, 5, 5, 5)}, "cannot be built"), ({"size": (5,)}, "do not fit"),
        ({"P": torch.zeros(2, 1, 1, 3)}, "do not fit"), ({"SIG": torch.zeros(2, 1, 1, 2)}, "has no widths"),
        ({"version": "max"}, "needs widths SIG"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(change, words):
    given = {"weight": torch.ones(1, 1, 2), "P": torch.zeros(2, 1, 1, 2), "SIG": None, "size": (5, 5), "version": "v1"}
    with pytest.raises(UserError, match=words):
        construct_kernel(**(given | change))
