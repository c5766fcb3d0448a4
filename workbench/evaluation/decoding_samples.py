"""Sample from several models with the same dice, and measure the texts.

Two models that are sampled with different random streams differ mostly by luck. With common random numbers only the
models differ: token = argmax(ℓ/T + g) with Gumbel noise g, which is a draw from softmax(ℓ/T) (Gumbel 1954; "Gumbel-max
trick"), and the *same* g [rows, vocabulary] at step t for every model, temperature and top-k. Two equal models then write
equal texts, and nearly equal ones part only where a draw was close.

    tokens [rows, new] · row r continues prompt r // samples · end tokens are not special: every row has `new` tokens

Source: setting of Roy 2023, arXiv 2309.05210 (continuations of prompts over temperature and top-k). Departures: the paper
draws each cell anew and judges texts by eye; here noise is shared, and every measure is a number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.evaluation.decoding import check_grid, kept_tokens


def gumbel(rows: int, vocabulary: int, seed: int, step: int) -> Tensor:
    """The dice of one step: float32 [rows, vocabulary], the same for every model that asks with the same numbers."""
    chance = torch.Generator().manual_seed((seed * 1_000_003 + step) % (1 << 62))
    uniform = torch.rand(rows, vocabulary, generator=chance).clamp_(min=1e-12, max=1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def choose_tokens(logits: Tensor, noise: Tensor | None, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """One token a row: argmax(ℓ/T + g) over the kept tokens; without noise the most likely token.

    Args:
        logits: [rows, vocabulary].
        noise: g [rows, vocabulary], or None for greedy.
        temperature: above 0.
        top_k: tokens kept, or None for all.
    """
    if noise is None:
        return logits.argmax(-1)
    scores = logits.float() / temperature + noise.to(logits.device)
    return (scores if top_k is None else scores.masked_fill(~kept_tokens(logits, top_k), -torch.inf)).argmax(-1)


@torch.no_grad()
def sample_shared(
    model: nn.Module,
    prompts: Tensor,
    *,
    new_tokens: int,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    greedy: bool = False,
    seed: int = 0,
) -> Tensor:
    """Continue every prompt `samples` times with dice that depend on the seed only.

    Args:
        model: a causal language model with a KV cache.
        prompts: token ids [prompts, tokens], all of one length.
        new_tokens: tokens to write.
        samples: continuations of each prompt, each with dice of its own.
        temperature: above 0.
        top_k: tokens kept, or None for all.
        greedy: take the most likely token always; needs `samples` = 1.
        seed: of the dice.

    Returns:
        Token ids [prompts · samples, new_tokens].

    Raises:
        UserError: settings out of range, or more tokens than the model can read.
    """
    from workbench.evaluation.nll import check_ids, device_of, evaluating, Scorer  # isort: skip

    if new_tokens < 1 or samples < 1 or prompts.ndim != 2 or not prompts.numel():
        raise UserError(
            f"{samples} samples of {new_tokens} tokens from prompts of shape {tuple(prompts.shape)} are nothing to measure; "
            "give 1 or more of each, and prompts as [prompts, tokens]."
        )
    if greedy and samples > 1:
        raise UserError(f"Greedy decoding writes one text only, not {samples}; give samples=1.")
    check_ids(Scorer(model), int(prompts.max()), prompts.shape[1] + new_tokens)
    ids = prompts.repeat_interleave(samples, 0).to(device_of(model))
    written, cache = [], None
    with evaluating(model):
        for step in range(new_tokens):
            output = model(input_ids=ids, past_key_values=cache, use_cache=True)
            logits, cache = output.logits[:, -1], output.past_key_values
            if not step:
                check_grid([temperature], [top_k], logits.shape[1])
            noise = None if greedy else gumbel(len(ids), logits.shape[1], seed, step)
            ids = choose_tokens(logits, noise, temperature, top_k).unsqueeze(1)
            written.append(ids)
    return torch.cat(written, 1).cpu()


def repetition(tokens: Tensor, n: int = 4) -> Tensor:
    """Share of each row's n-grams that stood in the row before, float [rows]; 0 for rows shorter than n + 1."""
    grams = tokens.unfold(1, n, 1) if tokens.shape[1] >= n else tokens[:, :0].unsqueeze(-1)
    found = [1 - len({tuple(gram) for gram in row}) / len(row) if row else 0.0 for row in grams.tolist()]
    return torch.tensor(found)


def distinct(tokens: Tensor, samples: int, n: int = 2) -> Tensor:
    """Distinct n-grams over all n-grams in the samples of one prompt together, float [prompts]."""
    grams = tokens.unfold(1, n, 1).reshape(len(tokens) // samples, -1, n)
    return torch.tensor([len({tuple(gram) for gram in prompt}) / len(prompt) for prompt in grams.tolist()])


def likeness(tokens: Tensor, samples: int) -> Tensor:
    """How alike the samples of one prompt are: mean Jaccard overlap of their token sets over all pairs, float [prompts].

    1 when all samples use the same tokens ("self-consistency"); nan with one sample.
    """
    found = []
    for prompt in tokens.view(-1, samples, tokens.shape[1]).tolist():
        sets = [set(row) for row in prompt]
        pairs = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
        found.append(sum(pairs) / len(pairs) if pairs else float("nan"))
    return torch.tensor(found)


def tokens_in_common(tokens: Tensor, other: Tensor) -> Tensor:
    """Tokens that two models wrote alike before their texts part, int [rows]."""
    return (tokens == other).long().cumprod(1).sum(1)
