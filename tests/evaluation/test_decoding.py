"""Distances between next-token distributions, sampling with shared dice, and the two studies."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from workbench.errors import UserError
from workbench.evaluation.decoding import check_grid, divergences, kept_tokens, log_probabilities
from workbench.evaluation.decoding_samples import (
    choose_tokens,
    distinct,
    gumbel,
    likeness,
    repetition,
    sample_shared,
    tokens_in_common,
)
from workbench.evaluation.decoding_study import context_sensitivity, next_token_logits, sample_sensitivity


def drawn(rows=40, vocabulary=30, noise=0.3, seed=0):
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, vocabulary, generator=chance, dtype=torch.float64)
    return logits, logits + noise * torch.randn(rows, vocabulary, generator=chance, dtype=torch.float64)


def test_two_tokens_by_hand():
    # p = (1/2, 1/2); the second logit grows by ln 3 at T = 1, so q = (1/4, 3/4).
    found = divergences(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]]), 1.0)
    assert found["kl"].item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert found["tv"].item() == pytest.approx(0.25)
    assert found["predicted"].item() == pytest.approx((math.log(3) / 2) ** 2 / 2, abs=1e-6)  # variance ± half of ln 3
    assert found["same"].item() == 0  # the first of equals is preferred before, the second after
    assert found["spread"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 2.0])
def test_parity_with_scipy_in_float64(temperature):
    logits, other = drawn()
    found = divergences(logits, other, temperature)
    p, q = (special.softmax(x.numpy() / temperature, axis=1) for x in (logits, other))
    np.testing.assert_allclose(found["kl"], special.rel_entr(p, q).sum(1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["tv"], np.abs(p - q).sum(1) / 2, rtol=1e-9, atol=1e-12)
    change = (other - logits).numpy()
    variance = (p * change**2).sum(1) - (p * change).sum(1) ** 2
    np.testing.assert_allclose(found["predicted"], variance / (2 * temperature**2), rtol=1e-7, atol=1e-12)


def test_a_shift_of_all_logits_changes_nothing_and_equal_models_have_no_distance():
    logits, _ = drawn()
    for other in (logits, logits + 3.0):
        found = divergences(logits, other, 0.5)
        assert max(found[name].max() for name in ("kl", "predicted", "tv")) < 1e-12 and found["same"].min() == 1


def test_the_closed_form_is_the_limit_of_small_changes():
    logits, other = drawn()
    for size, tolerance in ((1e-2, 2e-1), (1e-4, 2e-3)):
        found = divergences(logits, logits + size * (other - logits), 1.0)
        np.testing.assert_allclose(found["predicted"], found["kl"], rtol=tolerance)


def test_large_changes_average_out_over_gaps():
    gaps = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    logits = torch.stack([gaps, torch.zeros_like(gaps)], 1)
    found = divergences(logits, logits + torch.tensor([4.0, 0.0]), 1.0)
    off = (found["predicted"] / found["kl"].clamp(min=1e-9) - 1).abs()
    assert off[1500:2500].max() > 0.3  # single contexts are far off …
    assert found["predicted"].mean() == pytest.approx(found["kl"].mean().item(), rel=1e-6)  # … their mean is not


def test_the_laws_kl_falls_like_one_over_t_and_tv_stays():
    gaps = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    logits = torch.stack([gaps, torch.zeros_like(gaps)], 1)
    cold, warm = (divergences(logits, logits + torch.tensor([0.2, 0.0]), t) for t in (0.5, 2.0))
    assert cold["kl"].mean() / warm["kl"].mean() == pytest.approx(4, rel=1e-3)
    assert cold["tv"].mean() == pytest.approx(warm["tv"].mean().item(), rel=1e-3)


def test_top_k_keeps_exactly_k_also_among_equals_and_is_finite_when_the_sets_differ():
    assert kept_tokens(torch.zeros(3, 9), 4).sum(1).tolist() == [4, 4, 4]
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    found = divergences(logits, logits.flip(1), 1.0, top_k=2)
    p = 1 / (1 + math.exp(-1))
    assert found["tv"].item() == pytest.approx(1)  # no token in common
    assert found["kl"].item() == pytest.approx(p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    assert log_probabilities(logits, 1.0, kept_tokens(logits, 2)).exp().sum().item() == pytest.approx(1)
    every = divergences(*drawn(), 0.7, top_k=30)
    assert torch.allclose(every["kl"], divergences(*drawn(), 0.7)["kl"])


@pytest.mark.parametrize(
    ("temperatures", "top_ks", "words"),
    [
        ([0.0], [None], "greedy"), ([-1], [None], "above 0"), ([math.nan], [None], "above 0"), ([math.inf], [None], "above 0"),
        ([1.0], [0], "from 2 to 9"), ([1.0], [10], "from 2 to 9"), ([1.0], [True], "whole number"), ([1.0], [2.5], "2.5"),
        ([1.0], [1], "at every temperature"), ([], [None], "empty"), ([1.0], [], "empty"),
    ],
)  # fmt: skip
def test_a_grid_that_means_nothing_is_refused(temperatures, top_ks, words):
    with pytest.raises(UserError, match=words):
        check_grid(temperatures, top_ks, 9)


def test_logits_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match=r"\(2, 3\) and \(2, 4\)"):
        divergences(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(UserError, match="nan or infinite"):
        divergences(torch.zeros(2, 3), torch.full((2, 3), math.nan), 1.0)


def test_gumbel_noise_draws_from_the_softmax():
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(60_000, 3)
    chosen = choose_tokens(logits, gumbel(60_000, 3, seed=3, step=0), temperature=0.5)
    share = torch.bincount(chosen, minlength=3) / 60_000
    wanted = torch.softmax(torch.tensor([2.0, 0.0, -2.0]), 0)
    assert (share - wanted).abs().max() < 4 * 0.5 / 60_000**0.5


def test_dice_depend_on_seed_and_step_and_on_nothing_else():
    assert torch.equal(gumbel(4, 50, 1, 2), gumbel(4, 50, 1, 2))
    assert not torch.equal(gumbel(4, 50, 1, 2), gumbel(4, 50, 1, 3))
    assert not torch.equal(gumbel(4, 50, 1, 2), gumbel(4, 50, 2, 2))
    assert torch.isfinite(gumbel(50, 3000, 0, 0)).all()


def test_top_k_and_greedy_choose_among_the_most_likely():
    logits, _ = drawn()
    best = logits.topk(3).indices
    chosen = choose_tokens(logits, gumbel(40, 30, 0, 0), temperature=5.0, top_k=3)
    assert (best == chosen.unsqueeze(1)).any(1).all() and (chosen != best[:, 0]).any()
    assert torch.equal(choose_tokens(logits, None), best[:, 0])


def test_measures_of_texts_by_hand():
    tokens = torch.tensor([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 5, 6]])
    assert repetition(tokens, 2).tolist() == pytest.approx([2 / 5, 0])  # (1,2) and (2,3) come again
    assert repetition(tokens, 9).tolist() == [0, 0]
    assert distinct(tokens, samples=2).tolist() == pytest.approx([6 / 10])  # 12 23 31 of the first, 34 45 56 more
    assert distinct(tokens, samples=1).tolist() == pytest.approx([3 / 5, 1])
    assert likeness(tokens, samples=2).tolist() == pytest.approx([3 / 6])
    assert math.isnan(likeness(tokens, samples=1)[0])
    assert tokens_in_common(tokens, tokens.flip(1)).tolist() == [0, 0]
    assert tokens_in_common(tokens[:1], tokens[1:]).tolist() == [3]


@pytest.fixture(scope="module")
def prompts():
    return torch.randint(2, 300, (4, 6), generator=torch.Generator().manual_seed(0))


def test_sampling_equals_a_loop_without_a_cache(model, prompts):
    got = sample_shared(model, prompts, new_tokens=5, samples=2, temperature=0.8, top_k=20, seed=4)
    ids = prompts.repeat_interleave(2, 0)
    with torch.no_grad():
        for step in range(5):
            logits = model(ids).logits[:, -1]
            ids = torch.cat([ids, choose_tokens(logits, gumbel(8, logits.shape[1], 4, step), 0.8, 20)[:, None]], 1)
    assert torch.equal(got, ids[:, 6:])


def test_the_same_dice_write_the_same_text_and_samples_of_a_prompt_differ(model, prompts):
    one, again = (sample_shared(model, prompts, new_tokens=8, samples=3, seed=5) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one[0], one[1])
    greedy = sample_shared(model, prompts, new_tokens=4, greedy=True)
    assert torch.equal(greedy[:, 0], model(prompts).logits[:, -1].argmax(-1))


def test_sampling_leaves_the_random_state_and_the_mode_alone(model, prompts):
    model.train()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    sample_shared(model, prompts, new_tokens=2)
    assert torch.equal(before, torch.get_rng_state()) and model.training
    model.eval()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"new_tokens": 0}, "nothing to measure"), ({"samples": 0}, "nothing to measure"), ({"temperature": 0}, "greedy=True"),
        ({"greedy": True, "samples": 2}, "one text only"), ({"new_tokens": 999}, "more than the 256"), ({"top_k": 999}, "999"),
    ],
)  # fmt: skip
def test_sampling_refuses_settings_that_mean_nothing(model, prompts, settings, words):
    with pytest.raises(UserError, match=words):
        sample_shared(model, prompts, **{"new_tokens": 2, **settings})


def test_context_logits_are_the_models_own(model):
    windows = torch.randint(2, 300, (5, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(windows).logits[:, [7, 15]].flatten(0, 1)
    assert torch.allclose(next_token_logits(model, windows, every=8, batch=2).double(), wanted, atol=1e-5)
    with pytest.raises(UserError, match="No context of 21 tokens"):
        next_token_logits(model, windows, every=21)


@pytest.fixture(scope="module")
def pair(build):
    original, changed = build(), build()
    with torch.no_grad():
        for weight in changed.parameters():
            weight += 0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    return {"full": original, "changed": lambda: changed, "again": original}


def test_context_study(pair):
    windows = torch.randint(2, 300, (6, 16), generator=torch.Generator().manual_seed(2))
    told = []
    rows = context_sensitivity(
        pair, windows, temperatures=[0.5, 1.0], top_ks=[None, 5], every=8, progress=lambda *now: told.append(now)
    )
    assert len(rows) == 8 and set(rows["contexts"]) == {12} and told[-1][0] == told[-1][1]
    assert (rows[rows["model"] == "again"][["kl", "tv"]] == 0).all(axis=None)
    changed = rows[rows["model"] == "changed"]
    assert ((changed["kl_low"] < changed["kl"]) & (changed["kl"] < changed["kl_high"])).all()
    own = next_token_logits(pair["full"], windows, 8), next_token_logits(pair["changed"](), windows, 8)
    wanted = divergences(*own, 0.5, 5)["tv"].mean().item()
    assert changed.query("temperature == 0.5 and top_k == 5")["tv"].item() == pytest.approx(wanted)


def test_text_study_pairs_by_prompt_and_shared_dice_are_worth_something(pair, prompts):
    rows = sample_sensitivity(pair, prompts, temperatures=[0.7], new_tokens=6, samples=2, seed=1).set_index("model")
    same = rows.loc[["full", "again"]]
    assert (same[["gap", "se"]] == 0).all(axis=None) and (same["common"] == 6).all() and (same["se_own"] > 0).all()
    changed = rows.loc["changed"]
    assert changed["gap"] == pytest.approx(changed["nll"] - rows.loc["full", "nll"])
    assert changed["common"] < 6 and changed["gap_low"] <= changed["gap"] <= changed["gap_high"]
    tokens = sample_shared(pair["full"], prompts, new_tokens=6, samples=2, temperature=0.7, seed=1)
    with torch.no_grad():
        full = torch.cat([prompts.repeat_interleave(2, 0), tokens], 1)
        told = torch.log_softmax(pair["full"](full).logits[:, 5:-1], -1).gather(2, tokens.unsqueeze(2))
    assert rows.loc["full", "nll"] == pytest.approx(-told.mean().item(), rel=1e-5)


def test_studies_refuse_one_model_and_one_draw(pair, prompts):
    with pytest.raises(UserError, match="nothing to compare"):
        context_sensitivity({"full": pair["full"]}, prompts, temperatures=[1.0], every=2)
    with pytest.raises(UserError, match="tell luck from effect"):
        sample_sensitivity(pair, prompts, temperatures=[1.0], samples=1)
