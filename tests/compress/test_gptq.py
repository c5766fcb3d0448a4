from __future__ import annotations

import pytest
import torch

from workbench.compress import ranges
from workbench.compress.gptq import Hessian, factor, quantize_gptq
from workbench.compress.rtn import grid, quantize_rtn
from workbench.errors import UserError


def planted(width: int, rows: int = 6, seed: int = 0):
    """Weights and correlated inputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    x = torch.randn(3 * width, width, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), x.t() @ x / len(x)


def brain_surgeon(weight, hessian, bits, group, symmetric, damping=0.01, ranges=None):
    """Optimal brain quantization in fixed order, as the papers state it: after each column the inverse Hessian loses
    that row and column by elimination. No Cholesky, no blocks."""
    weight = weight.clone()
    eye = torch.eye(len(hessian), dtype=hessian.dtype)
    inverse = torch.linalg.inv(hessian + damping * hessian.diagonal().mean() * eye)
    codes = torch.zeros_like(weight)
    for j in range(weight.shape[1]):
        if j % group == 0:
            cut = slice(j, j + group)
            found = ranges(weight[:, cut], hessian[cut, cut]) if ranges else grid(weight[:, cut], bits, symmetric)
            scale, zero = (part.double() for part in found)
        codes[:, j] = (torch.round(weight[:, j] / scale) + zero).clamp(0, 2**bits - 1)
        error = (weight[:, j] - (codes[:, j] - zero) * scale) / inverse[j, j]
        weight[:, j + 1 :] -= error[:, None] * inverse[j, j + 1 :]
        inverse = inverse - inverse[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
    return codes.to(torch.uint8)


@pytest.mark.parametrize(("width", "group"), [(24, 8), (24, 24), (160, 160), (288, 144)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_equal_optimal_brain_quantization(width, group, bits):
    weight, hessian = planted(width)
    for symmetric in (False, True):
        record, cost, _ = quantize_gptq(weight, hessian, bits=bits, group_size=group, symmetric=symmetric)
        assert torch.equal(record.codes, brain_surgeon(weight, hessian, bits, group, symmetric))
        change = weight - record.dequantize(torch.float64)
        damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(width)
        torch.testing.assert_close(cost[:, 0], ((change @ damped) * change).sum(1))  # the loss is exactly Σ e²


@pytest.mark.parametrize(("width", "group"), [(24, 8), (160, 160)])
@pytest.mark.parametrize("bits", [2, 3])
def test_with_clip_a_group_fits_its_range_to_what_has_been_absorbed_so_far(width, group, bits):
    weight, hessian = planted(width)

    def narrower(values, own):
        """The eleven ranges one by one."""
        best = None
        for shrink in (1 - 0.05 * i for i in range(11)):
            scale, zero = (part.double()[:, None] for part in grid(shrink * values, bits, False))
            delta = ((torch.round(values / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale - values
            found = ((delta @ own) * delta).sum(1), scale[:, 0], zero[:, 0]
            better = True if best is None else found[0] < best[0]
            best = found if best is None else tuple(torch.where(better, n, b) for n, b in zip(found, best, strict=True))
        return best[1:]

    record, _, _ = quantize_gptq(weight, hessian, bits=bits, group_size=group, clip=True)
    assert torch.equal(record.codes, brain_surgeon(weight, hessian, bits, group, False, ranges=narrower))


@pytest.mark.parametrize("act_order", [False, True])
def test_clip_with_the_full_range_alone_is_the_published_grid(act_order, monkeypatch):
    weight, hessian = planted(48)
    options = {"bits": 3, "group_size": 16, "act_order": act_order}
    fitted, plain = (quantize_gptq(weight, hessian, clip=clip, **options)[0] for clip in (True, False))
    assert bool((fitted.scales <= plain.scales).any()) and not torch.equal(fitted.scales, plain.scales)
    monkeypatch.setattr(ranges, "SHRINKS", (1.0,))
    full = quantize_gptq(weight, hessian, clip=True, **options)[0]
    assert torch.equal(full.codes, plain.codes) and torch.equal(full.scales, plain.scales)


def test_two_columns_by_hand():
    weight = torch.tensor([[0.4, 0.7, 1.0]], dtype=torch.float64)  # 2 bits: step 1/3, zero 0
    hessian = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    record, _, _ = quantize_gptq(weight, hessian, bits=2, group_size=3, damping=0.0)
    # 0.4 → 1/3, short by 0.0667; the second column takes half of it: 0.7333 → 2/3
    assert record.codes.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_beats_rounding_on_correlated_inputs(bits, act_order):
    for seed in range(3):
        weight, hessian = planted(64, 32, seed)
        record, _, _ = quantize_gptq(weight, hessian, bits=bits, group_size=16, act_order=act_order)
        plain = quantize_rtn(weight, bits=bits, group_size=16)
        losses = []
        for found in (record, plain):
            change = weight - found.dequantize(torch.float64)
            losses.append(float(((change @ hessian) * change).sum()))
        assert losses[0] < 0.75 * losses[1]


def test_white_inputs_make_it_rounding():
    weight = torch.randn(8, 32, dtype=torch.float64)
    for act_order in (False, True):
        record, _, _ = quantize_gptq(weight, torch.eye(32).double(), bits=3, group_size=8, act_order=act_order)
        assert torch.equal(record.codes, quantize_rtn(weight, bits=3, group_size=8).codes)


def test_act_order_equals_solving_the_permuted_problem():
    weight, hessian = planted(32)
    hessian = hessian * torch.linspace(1, 9, 32).outer(torch.linspace(1, 9, 32))
    record, _, _ = quantize_gptq(weight, hessian, bits=3, group_size=None, act_order=True)
    order = torch.argsort(hessian.diagonal(), descending=True)
    # one scale per channel: the grid is the same in any order, so the permuted problem is an independent judge
    want = brain_surgeon(weight[:, order], hessian[order][:, order], 3, 32, False)
    assert torch.equal(record.codes[:, order], want)


def test_hessian_is_the_mean_outer_product():
    x = torch.randn(2, 50, 700, dtype=torch.float64)
    hessian = Hessian(700)
    hessian.add(x[0])
    hessian.add(x[1:])
    flat = x.reshape(-1, 700)
    torch.testing.assert_close(hessian.matrix(), flat.t() @ flat / 100)


def test_factored_hessian_is_kept_and_gives_the_same_codes():
    weight, _ = planted(32)
    hessian = Hessian(32)
    hessian.add(torch.randn(200, 32, dtype=torch.float64))
    ready = hessian.factored(0.01)
    assert hessian.factored(0.01) is ready and hessian.factored(0.02) is not ready
    for act_order in (False, True):
        ready = hessian.factored(0.01, act_order)
        for bits in (2, 4):
            direct, _, _ = quantize_gptq(weight, hessian.matrix(), bits=bits, group_size=8, act_order=act_order)
            assert torch.equal(quantize_gptq(weight, ready, bits=bits, group_size=8)[0].codes, direct.codes)


def test_factor_inverts_the_hessian():
    _, hessian = planted(20)
    upper, used = factor(hessian, 0.01)
    assert torch.equal(upper, torch.triu(upper)) and used == 0.01
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(20)
    torch.testing.assert_close(upper.t() @ upper, torch.linalg.inv(damped))


def test_dead_inputs_get_zero_weights_and_a_note():
    weight, hessian = planted(16)
    hessian[3] = hessian[:, 3] = 0
    record, cost, notes = quantize_gptq(weight, hessian, bits=4, group_size=8, name="mlp.down_proj")
    assert bool((record.dequantize()[:, 3] == 0).all()) and bool(torch.isfinite(cost).all())
    assert notes == ["mlp.down_proj: 1 of 16 inputs were always zero; their weights were set to 0."]


def test_damping_rises_until_the_hessian_is_positive_definite():
    weight, hessian = planted(16)
    lowest = torch.linalg.eigvalsh(hessian)[0] + 0.05 * hessian.diagonal().mean()
    hessian = hessian - lowest * torch.eye(16)  # smallest eigenvalue −0.05 of the mean diagonal
    record, _, notes = quantize_gptq(weight, hessian, bits=4, group_size=8, name="q_proj")
    assert notes == ["q_proj: damping raised from 0.01 to 0.1 to make the Hessian positive definite."]
    assert bool(torch.isfinite(record.dequantize()).all())


def test_hopeless_hessians_are_refused():
    weight, hessian = planted(16)
    with pytest.raises(UserError, match="q_proj is not positive definite even with damping 1"):
        quantize_gptq(
            weight, hessian - 40 * hessian.diagonal().mean() * (1 - torch.eye(16)), bits=4, group_size=8, name="q_proj"
        )
    hessian[0, 0] = float("nan")
    with pytest.raises(UserError, match="inputs of q_proj hold NaN"):
        quantize_gptq(weight, hessian, bits=4, group_size=8, name="q_proj")


def test_factor_halves_large_matrices():
    _, hessian = planted(600)
    upper, _ = factor(hessian, 0.01)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(600).double()
    torch.testing.assert_close(upper @ damped @ upper.t(), torch.eye(600).double(), atol=1e-10, rtol=0)


def test_zero_damping_rises_too():
    weight, hessian = planted(16)
    hessian = hessian - (torch.linalg.eigvalsh(hessian)[0] + 1e-3 * hessian.diagonal().mean()) * torch.eye(16)
    _, _, notes = quantize_gptq(weight, hessian, bits=4, group_size=8, damping=0.0)
    assert notes == ["this layer: damping raised from 0 to 0.01 to make the Hessian positive definite."]


def test_tokens_that_count_equally_by_hand():
    hessian = Hessian(2, equal_tokens=True)
    hessian.add(torch.tensor([[3.0, 4.0], [0.0, 1000.0], [0.0, 0.0]]))
    torch.testing.assert_close(hessian.matrix(), torch.tensor([[0.36, 0.48], [0.48, 1.64]]) / 3)


def test_one_huge_token_decides_the_sum_but_not_the_equal_sum():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator)
    inputs = torch.randn(512, 64, generator=generator) @ (torch.randn(64, 64, generator=generator) / 8 + torch.eye(64))
    huge = torch.cat([inputs, 1e4 * torch.randn(1, 64, generator=generator)])
    errors = {}
    for equal in (False, True):
        hessian = Hessian(64, equal)
        hessian.add(huge)
        record = quantize_gptq(weight, hessian.matrix(), bits=3, group_size=64)[0]
        errors[equal] = float((inputs @ (weight - record.dequantize()).t()).square().mean())
    rounded = float((inputs @ (weight - quantize_rtn(weight, bits=3, group_size=64).dequantize()).t()).square().mean())
    assert errors[True] < 0.7 * rounded
    assert errors[False] > 0.95 * rounded
