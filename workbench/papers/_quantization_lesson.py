"""What lessons 08 and 09 compute: the ladder of bits on the shipped model, loud tokens, and calibration on other texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from workbench import data, models
from workbench.compress.quantize import quantize_model
from workbench.compress.targets import find_targets, matrix
from workbench.errors import choose
from workbench.papers import _ptq_impact_runs as runs
from workbench.papers._perp_runs import loss_of
from workbench.progress import Progress, silent

TEXTS = ("sotu", "moby-dick", "kjv")
WINDOW = 64


@dataclass(frozen=True)
class Sizes:
    """Windows of 64 tokens for calibration and for the test, from each text, and the steps of the ladder."""

    calibration: int
    test: int
    ladder: tuple[tuple[str, int], ...]


def sizes_of(scale: str) -> Sizes:
    """How much a lesson computes.

    Args:
        scale: `smoke` or `small`.
    """
    plain = [(method, bits) for method in ("rtn", "gptq") for bits in (8, 4, 3, 2)]
    known = {
        "smoke": Sizes(8, 2, (("rtn", 3), ("gptq", 3), ("nf4", 4))),
        "small": Sizes(32, 24, (*plain, ("nf4", 4), ("fp4", 4))),
    }
    return known[choose("scale", scale, known)]


@cache
def _parts(text: str) -> dict[str, data.Examples]:
    return data.split(
        data.load(text), seed=0
    )  # the split of seed 0: the shipped model was trained on its training part


@cache
def windows(part: str, count: int, seed: int, texts: tuple[str, ...] = TEXTS) -> Tensor:
    """Token ids [texts · count, 64] from a part of each text."""
    tokenizer = models.load_tokenizer("tiny-lm")
    return torch.cat(
        [row for text in texts for row in data.calibration(_parts(text)[part], tokenizer, count, WINDOW, seed)]
    )


def calibration_text(source: str, count: int, seed: int) -> list[Tensor]:
    """`count` windows to calibrate on.

    Args:
        source: "all" (equal parts of the three texts), a text's name, or "random tokens".
        count: windows in all.
        seed: which ones.
    """
    choose("calibration text", source, ["all", "random tokens", *TEXTS])
    if source == "random tokens":
        vocabulary = models.load_tokenizer("tiny-lm").vocab_size
        drawn = torch.randint(2, vocabulary, (count, WINDOW), generator=torch.Generator().manual_seed(seed))
        return list(drawn.split(1))
    if source == "all":
        share = -(-count // len(TEXTS))
        return list(
            windows("train", share, seed).view(len(TEXTS), share, WINDOW).transpose(0, 1).flatten(0, 1)[:count].split(1)
        )
    return list(windows("train", count, seed, (source,)).split(1))


def one_point(
    method: str, bits: int = 4, group_size: int | None = 64, source: str = "all", count: int | None = None,
    scale: str = "small", seed: int = 0, equal_tokens: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Quantize the shipped model one way and measure it on text not seen.

    Args:
        method: rtn, gptq, nf4 or fp4 (which have 4 bits and take the group as their block).
        bits: bits per code.
        group_size: weights per scale, None for one per output channel.
        source: text that GPTQ calibrates on, as for `calibration_text`.
        count: windows to calibrate on, by default the scale's.
        scale, seed: how much, and which windows.
        equal_tokens: as for `quantize_model`.

    Returns:
        method, bits, group, source, windows, size (stored bits per weight), loss and gap to the model before (nats per
        token); kl, the mean divergence of its predictions (nats per token), half of its 95 % interval, and tested windows.
    """
    sizes = sizes_of(scale)
    count = count or sizes.calibration * len(TEXTS)
    test = windows("test", sizes.test, seed)
    model, dense = models.load_model("tiny-lm"), dense_loss(scale, seed)
    table = method in ("nf4", "fp4")
    report = quantize_model(
        model, method=method, bits=4 if table else bits, group_size=(group_size or 64) if table else group_size,
        calibration=calibration_text(source, count, seed) if method == "gptq" else None, equal_tokens=equal_tokens,
    )  # fmt: skip
    loss = loss_of(model, test)
    kl, half = distance(model, scale, seed)
    return {"method": method, "bits": report.bits, "group": group_size or 0, "source": source, "windows": count,
            "size": report.bits_per_weight, "loss": loss, "gap": loss - dense, "kl": kl, "half": half,
            "tested": len(test)}  # fmt: skip


@cache
def dense_loss(scale: str = "small", seed: int = 0) -> float:
    """Nats per token of the model that is not quantized, on the same test windows."""
    return loss_of(models.load_model("tiny-lm"), windows("test", sizes_of(scale).test, seed))


@cache
def _dense_predictions(scale: str, seed: int) -> Tensor:
    """Log-probabilities [windows, 64, vocabulary] of the model that is not quantized, on the test windows."""
    return _predictions(models.load_model("tiny-lm"), windows("test", sizes_of(scale).test, seed))


@torch.no_grad()
def _predictions(model: nn.Module, ids: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(part, use_cache=False).logits.log_softmax(-1) for part in ids.split(16)])


def distance(model: nn.Module, scale: str = "small", seed: int = 0) -> tuple[float, float]:
    """How far the predictions moved: mean KL(p ‖ q) over all places of the test windows, p before, q after (nats).

    Args:
        model: a rounded version of the shipped model.
        scale, seed: which windows.

    Returns:
        The mean, and half of its 95 % interval over windows.
    """
    before = _dense_predictions(scale, seed)
    after = _predictions(model, windows("test", sizes_of(scale).test, seed))
    found = (before.exp() * (before - after)).sum(-1).mean(-1).double()  # one number a window
    return float(found.mean()), 1.96 * float(found.std()) / len(found) ** 0.5


def ladder(scale: str = "small", seed: int = 0, progress: Progress = silent) -> pd.DataFrame:
    """Every method at every width: rows as `one_point` gives them."""
    steps = sizes_of(scale).ladder
    rows = []
    for done, (method, bits) in enumerate(steps):
        progress(done, len(steps), f"{method}, {bits} bits")
        rows.append(one_point(method, bits, scale=scale, seed=seed))
    progress(1, 1, "done")
    return pd.DataFrame(rows)


def calibrations(scale: str = "small", seed: int = 0, progress: Progress = silent) -> pd.DataFrame:
    """GPTQ at 3 bits, calibrated on different texts, and on more and less of them; rounding beside it."""
    sources = ["all", *TEXTS, "random tokens"]
    counts = (8, 24, 96) if scale == "small" else (8,)
    steps = [(source, count) for source in sources for count in counts]
    rows = [one_point("rtn", 3, scale=scale, seed=seed) | {"source": "none", "windows": 0}]
    for done, (source, count) in enumerate(steps):
        progress(done, len(steps), f"{source}, {count} windows")
        rows.append(one_point("gptq", 3, source=source, count=count, scale=scale, seed=seed))
    progress(1, 1, "done")
    return pd.DataFrame(rows)


def efficientqat_judged(scale: str = "small", seed: int = 0, progress: Progress = silent) -> pd.DataFrame:
    """The judged models of the page `efficientqat` for one seed, as its `margin` and `figure` take them.

    Args:
        scale, seed: as for the page's `experiment`, which runs more that is only shown.
        progress: called as models are done.
    """
    from workbench.papers import _efficientqat_runs as trained

    setup = trained.prepare(trained.plan_for(scale), seed, "cpu")
    rows, jobs = [trained.float_row(setup, seed)], trained.cases("smoke")
    for done, case in enumerate(jobs):
        progress(done, len(jobs), case.arms[-1])
        rows += trained.run_case(setup, case, seed)
    progress(1, 1, "done")
    return pd.DataFrame(rows)


@torch.no_grad()
def loudest_shares(model: nn.Module, ids: Tensor) -> list[float]:
    """Share of Σ‖x‖² that the loudest token of each window has, at the input of each block's last linear layer, in order.

    Args:
        model: a causal language model whose blocks end in a layer named like `down_proj`.
        ids: token ids [windows, tokens].
    """
    targets = {
        name: layer for name, layer in find_targets(model).items() if name.endswith(("down_proj", "c_proj", "fc2"))
    }
    seen: dict[str, Tensor] = {}

    def listen(name: str) -> Callable[..., None]:
        return lambda layer, args: seen.update({name: args[0].float().square().sum(-1)})

    handles = [layer.register_forward_pre_hook(listen(name)) for name, layer in targets.items()]
    try:
        model.base_model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [float(seen[name].amax(1).sum() / seen[name].sum()) for name in targets]


@cache
def some_weights(rows: int = 1) -> Tensor:
    """The first rows of a layer of the shipped model, float32 [rows, 192]."""
    layer = next(iter(find_targets(models.load_model("tiny-lm")).values()))
    return matrix(layer)[:rows].float()


@cache
def _context_logits(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Last-position logits [6, vocabulary] of a format on six held-out contexts of 16 tokens, and their ids."""
    ids = windows("test", 2, seed)[:, :16]
    with torch.no_grad():
        return runs.rounded(models.load_model("tiny-lm"), name)(ids).logits[:, -1], ids


def next_token(
    name: str, temperature: float, top_k: int | None, context: int, seed: int = 0, show: int = 8
) -> tuple[list[str], list[float], list[float], dict[str, float], str]:
    """The most likely next tokens of one held-out context before and after rounding.

    Args:
        name: a format of `_ptq_impact_runs.FORMATS`.
        temperature: above 0.
        top_k: tokens kept, None for all.
        context: 0 … 5.
        seed: which contexts.
        show: candidates shown.

    Returns:
        Tokens, probabilities before, probabilities after, {kl, predicted, tv}, and the text of the context.
    """
    from workbench.evaluation.decoding import divergences, kept_tokens, log_probabilities

    tokenizer = models.load_tokenizer("tiny-lm")
    (own, ids), (other, _) = _context_logits(runs.ORIGINAL, seed), _context_logits(name, seed)
    own, other = own[context : context + 1], other[context : context + 1]
    p, q = (log_probabilities(x, temperature, kept_tokens(x, top_k)).exp()[0] for x in (own, other))
    chosen = own[0].topk(show).indices
    found = {key: float(value) for key, value in divergences(own, other, temperature, top_k).items()}
    words = [repr(tokenizer.decode([int(i)]))[1:-1].replace(" ", "␣") for i in chosen]
    return words, p[chosen].tolist(), q[chosen].tolist(), found, tokenizer.decode(ids[context])


def same_dice(name: str, temperature: float, context: int, seed: int = 0, new_tokens: int = 24) -> tuple[str, str, int]:
    """A continuation by the original and one by a format, with the same dice, and how many tokens they have in common."""
    from workbench.evaluation.decoding_samples import sample_shared, tokens_in_common

    tokenizer, base = models.load_tokenizer("tiny-lm"), models.load_model("tiny-lm")
    ids = _context_logits(runs.ORIGINAL, seed)[1][context : context + 1]
    texts = [
        sample_shared(model, ids, new_tokens=new_tokens, temperature=temperature, seed=seed)
        for model in (base, runs.rounded(base, name))
    ]
    return *(tokenizer.decode(text[0]) for text in texts), int(tokens_in_common(*texts))
