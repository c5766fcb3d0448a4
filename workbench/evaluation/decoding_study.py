"""Does a change of the weights hurt more at some decoding settings than at others? Measured twice, and kept apart.

- *Per token* (`context_sensitivity`): distances between next-token distributions on shared held-out contexts, for every
  temperature and top-k (see `decoding`). No sampling, so no luck.
- *Per text* (`sample_sensitivity`): texts sampled with common random numbers (see `decoding_samples`), and how they differ
  from the original's: how surprising the original model finds them (nats per token at temperature 1), repetition,
  distinct pairs, likeness of the samples of one prompt, tokens in common. Differences are paired by prompt; beside the
  standard error with shared dice stands the one with dice of its own.

`models` is an ordered mapping name → model, or name → function that makes it (so that one changed model is in memory at a
time); the first is the original. Both functions return one row per model and setting.

Source: the questions of Roy 2023, arXiv 2309.05210; common random numbers as in simulation studies (Glasserman & Yao 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.evaluation.decoding import check_grid, divergences
from workbench.evaluation.decoding_samples import distinct, likeness, repetition, sample_shared, tokens_in_common
from workbench.evaluation.nll import Scorer, check_ids, evaluating
from workbench.evaluation.statistics import bootstrap_mean
from workbench.progress import Progress, silent

Models = Mapping[str, nn.Module | Callable[[], nn.Module]]
RESAMPLES = 999


def _model(entry: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    return entry if isinstance(entry, nn.Module) else entry()


def _first(models: Models) -> str:
    if len(models) < 2:
        raise UserError(
            f"{len(models)} model is nothing to compare; give the original first and at least one changed model."
        )
    return next(iter(models))


def next_token_logits(model: nn.Module, windows: Tensor, every: int = 16, batch: int = 16) -> Tensor:
    """Logits after every `every`-th token of each window.

    Args:
        model: a causal language model.
        windows: token ids [windows, tokens].
        every: distance of the contexts; at least one must fit.
        batch: windows at once.

    Returns:
        float32 [windows · (tokens // every), vocabulary], window by window.

    Raises:
        UserError: windows shorter than `every`, or longer than the model can read.
    """
    if windows.ndim != 2 or not 1 <= every <= windows.shape[1]:
        raise UserError(
            f"No context of {every} tokens fits into windows of shape {tuple(windows.shape)}; "
            "give longer windows or a smaller `every`."
        )
    scorer = Scorer(model)
    check_ids(scorer, int(windows.max()), windows.shape[1])
    found = []
    with evaluating(model):
        for part in windows.split(batch):
            hidden, _ = scorer.forward(part.to(scorer.device))
            picked = hidden[:, every - 1 :: every].flatten(0, 1)
            found.append((picked if scorer.head is None else scorer.head(picked)).float().cpu())
    return torch.cat(found)


def context_sensitivity(
    models: Models,
    windows: Tensor,
    *,
    temperatures: Sequence[float],
    top_ks: Sequence[int | None] = (None,),
    every: int = 16,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Distances to the original's next-token distribution.

    Args:
        models: the original first.
        windows: held-out token ids [windows, tokens]; windows are the units of the intervals.
        temperatures: above 0.
        top_ks: tokens kept; None keeps all.
        every: a context after every so many tokens.
        progress: called after each model.

    Returns:
        Columns model, temperature, top_k (0: all), kl, kl_low, kl_high (95 %), predicted, tv, same, spread, contexts.
    """
    original = _first(models)
    own = next_token_logits(_model(models[original]), windows, every)
    check_grid(temperatures, top_ks, own.shape[1])
    units = [window for window in range(len(windows)) for _ in range(windows.shape[1] // every)]
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(list(models)[1:]):
        other = next_token_logits(_model(models[name]), windows, every)
        for top_k in top_ks:
            for temperature in temperatures:
                found = divergences(own, other, temperature, top_k)
                kl = bootstrap_mean(found["kl"].numpy(), groups=units, method="percentile", resamples=RESAMPLES)
                rows.append(
                    {"model": name, "temperature": temperature, "top_k": top_k or 0, "kl": kl.value, "kl_low": kl.low,
                     "kl_high": kl.high, "predicted": float(found["predicted"].mean()), "tv": float(found["tv"].mean()),
                     "same": float(found["same"].mean()), "spread": float(found["spread"].mean()), "contexts": len(own)}
                )  # fmt: skip
        progress(done + 1, len(models) - 1, f"contexts, {name}")
    return pd.DataFrame(rows)


def _nll(scorer: Scorer, prompts: Tensor, tokens: Tensor, samples: int, batch: int = 64) -> Tensor:
    """Mean nats per written token of each prompt's samples [prompts], as the scorer's model sees them at temperature 1."""
    full = torch.cat([prompts.repeat_interleave(samples, 0), tokens], 1)
    wanted = torch.zeros_like(full, dtype=torch.bool)
    wanted[:, prompts.shape[1] :] = True
    with evaluating(scorer.model):
        parts = zip(full.split(batch), wanted.split(batch), strict=True)
        nll = torch.cat([scorer.batch_nll(ids.to(scorer.device), at.to(scorer.device)).cpu() for ids, at in parts])
    return (nll.sum(1) / tokens.shape[1]).view(-1, samples).mean(1).double()


def sample_sensitivity(
    models: Models,
    prompts: Tensor,
    *,
    temperatures: Sequence[float],
    top_ks: Sequence[int | None] = (None,),
    new_tokens: int = 24,
    samples: int = 4,
    seed: int = 0,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Texts sampled with the same dice, against the original's.

    Args:
        models: the original first; it also judges the texts.
        prompts: held-out token ids [prompts, tokens]; prompts are the units of the intervals.
        temperatures: above 0.
        top_ks: tokens kept; None keeps all.
        new_tokens: tokens of every continuation.
        samples: continuations of every prompt, 2 or more.
        seed: of the dice.
        progress: called after each cell.

    Returns:
        Columns model, temperature, top_k (0: all), nll, gap (nll − the original's), gap_low, gap_high (95 %, paired by
        prompt), se and se_own (standard error of the gap with shared dice and with dice of its own), repetition, distinct,
        likeness, common (tokens before the texts part), prompts, samples. The original has its own rows, with gap 0.

    Raises:
        UserError: one sample per cell, which cannot tell luck from effect; fewer than two prompts; settings out of range.
    """
    original = _first(models)
    if samples < 2 or len(prompts) < 2:
        raise UserError(
            f"{len(prompts)} prompts with {samples} samples cannot tell luck from effect; give 2 or more of each."
        )
    settings = [(temperature, top_k) for top_k in top_ks for temperature in temperatures]
    base = _model(models[original])
    judge, total, done = Scorer(base), len(models) * len(settings), 0
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[float, int | None], tuple[Tensor, Tensor, Tensor]] = {}
    for name, entry in models.items():
        model = base if name == original else _model(entry)
        for setting in settings:
            how = {"new_tokens": new_tokens, "samples": samples, "temperature": setting[0], "top_k": setting[1]}
            tokens = sample_shared(model, prompts, seed=seed, **how)
            nll = _nll(judge, prompts, tokens, samples)
            if name == original:
                again = sample_shared(model, prompts, seed=seed + 500_009, **how)
                kept[setting] = tokens, nll, _nll(judge, prompts, again, samples)
            own_tokens, own_nll, other_dice = kept[setting]
            gap, apart = nll - own_nll, nll - other_dice
            told = bootstrap_mean(gap.numpy(), method="percentile", resamples=RESAMPLES)
            rows.append(
                {"model": name, "temperature": setting[0], "top_k": setting[1] or 0, "nll": float(nll.mean()),
                 "gap": told.value, "gap_low": told.low, "gap_high": told.high,
                 "se": float(gap.std() / len(gap) ** 0.5), "se_own": float(apart.std() / len(apart) ** 0.5),
                 "repetition": float(repetition(tokens).mean()), "distinct": float(distinct(tokens, samples).mean()),
                 "likeness": float(likeness(tokens, samples).mean()),
                 "common": float(tokens_in_common(tokens, own_tokens).double().mean()),
                 "prompts": len(prompts), "samples": samples}
            )  # fmt: skip
            done += 1
            progress(done, total, f"texts, {name} at temperature {setting[0]:g}")
    return pd.DataFrame(rows)
