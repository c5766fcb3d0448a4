"""The counter-based stream: positions, devices, distribution."""

import math

import pytest
import torch

from workbench.adapters._random import KINDS, derive, random_numbers
from workbench.errors import UserError

WORD = 1 << 32


def reference(seed: int, position: int) -> float:
    """One uniform number by plain Python integers, written from the docstring and not from the torch code."""
    high, low = divmod(position, WORD)
    keys = derive(seed, high)
    x = (low * 0x9E3779B9 + keys) % WORD
    x ^= x >> 16
    x = (x * 0x7FEB352D + (keys >> 32)) % WORD
    x ^= x >> 15
    x = x * 0x846CA68B % WORD
    x ^= x >> 16
    signed = x - WORD if x >= WORD // 2 else x
    return ((signed >> 8) + 0.5) / 2**23


@pytest.mark.parametrize("start", [0, 1, 65_530, WORD - 3, 5 * WORD + 7])
def test_numbers_equal_plain_integer_arithmetic(start):
    got = random_numbers(12345, start, 9)
    assert got.tolist() == [reference(12345, start + n) for n in range(9)]


def test_the_stream_is_frozen():
    # These values are what every saved adapter depends on: if they change, raise GENERATOR to a new tag.
    expected = [reference(derive(0, "a"), n) for n in range(3)]
    assert expected == pytest.approx([0.1943492293357849, 0.1072893738746643, -0.6301327347755432], abs=0)
    assert random_numbers(derive(0, "a"), 0, 3).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_any_cut_of_the_stream_gives_the_same_numbers(kind):
    whole = random_numbers(7, 100, 150_000, kind)
    parts = [random_numbers(7, 100 + a, b - a, kind) for a, b in ((0, 1), (1, 70_001), (70_001, 150_000))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_mean_zero_variance_one_third(kind):
    x = random_numbers(3, 0, 400_000, kind, dtype=torch.float64)
    assert abs(x.mean()) < 4 * math.sqrt(1 / 3 / len(x))
    assert x.var().item() == pytest.approx(1 / 3, rel=0.01)


def test_uniform_is_uniform_and_uncorrelated():
    x = random_numbers(11, 0, 200_000)
    counts = torch.histc(x, 64, -1, 1)
    assert ((counts - 3125) ** 2 / 3125).sum() < 115  # chi-square, 63 degrees of freedom, p = 1e-4
    for lag in (1, 2, 64, 256):
        assert abs((x[lag:] * x[:-lag]).mean() * 3) < 4 / math.sqrt(len(x))
    assert x.abs().max() < 1


def test_sparse_has_three_values_with_the_stated_shares():
    x = random_numbers(5, 0, 300_000, "sparse")
    assert x.unique().tolist() == [-1.0, 0.0, 1.0]
    assert (x > 0).float().mean().item() == pytest.approx(1 / 6, abs=0.003)


def test_streams_of_neighbouring_seeds_share_nothing():
    a, b = (random_numbers(seed, 0, 20_000) for seed in (0, 1))
    assert len(set(a.tolist()) & set(b.tolist())) < 60  # by chance 20000²/2²⁴ ≈ 24
    assert abs((a * b).mean() * 3) < 4 / math.sqrt(20_000)
    assert derive(0, "x", "A") != derive(0, "x", "B") != derive(1, "x", "B")


def test_float64_holds_the_same_numbers_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    wide = random_numbers(2, 0, 99, "normal", dtype=torch.float64)
    assert torch.equal(random_numbers(2, 0, 99, "normal").double(), wide)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="uniform"):
        random_numbers(0, 0, 1, "unifrom")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_makes_the_same_numbers(kind):
    cpu, gpu = random_numbers(9, 12, 5_000_000, kind), random_numbers(9, 12, 5_000_000, kind, device="cuda").cpu()
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=1e-6 if kind == "normal" else 0)
