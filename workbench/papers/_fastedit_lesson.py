"""What lesson 17 shows beside the page `fastedit`: the request it follows, an edit with its strip, and the table of factors."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd

from workbench.vision.requests import Request, make_requests


def follow(ability: str = "background", seed: int = 41) -> Request:
    """One request of an ability, from a seed that no run of the page uses."""
    return next(request for request in make_requests(12, seed) if request.ability == ability)


@functools.lru_cache(maxsize=2)
def bench() -> Any:
    """The loaded instruments, once per notebook."""
    from workbench.papers._fastedit_bench import Bench

    return Bench()


def fitted(request: Request, steps: int = 50, timesteps: str = "semantic", seed: int = 0) -> Any:
    """A FastEdit session on a request, as the page fits it.

    Args:
        request: what to edit.
        steps: of LoRA.
        timesteps: how noise steps are drawn.
        seed: of the fit.
    """
    from workbench.papers.fastedit import RATES
    from workbench.vision.fastedit import FastEdit

    how = {"steps": steps, "rate": RATES["lora"], "timesteps": timesteps, "seed": seed}
    return FastEdit(bench().base).fit(request.picture, request.prompt, **how)


def factor_table(request: Request, picture: Any) -> pd.DataFrame:
    """What the judge reads in an edit, factor by factor.

    Args:
        request: what was asked.
        picture: (1, 3, 32, 32) the edit.

    Returns:
        One row per factor: was, wanted, reads, and ✓ or ✗ with whether it was to change.
    """
    from workbench.vision.scenes import words_of

    was, wanted, reads = map(words_of, (request.original, request.wanted, bench().reader.read(picture)))
    return pd.DataFrame(
        {
            name: {
                "was": was[name], "wanted": wanted[name], "the judge reads": reads[name],
                "": ("✓" if reads[name] == wanted[name] else "✗") + (" to change" if name in request.changed else ""),
            }
            for name in was
        }
    ).T  # fmt: skip


def table_of_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """Every arm at its best knob, averaged over seeds: changed, kept, harmonic (percent), seconds, numbers trained.

    Args:
        rows: of the page, one or more seeds.
    """
    from workbench.papers.fastedit import best

    at = best(rows)
    cost = "seconds" if "seconds" in at else "work"
    mean = at.groupby("arm", sort=False)[["target", "kept", "harmonic", cost]].mean()
    trained = rows.groupby("arm", sort=False)["trainable"].first()
    return mean.assign(**{"numbers trained": trained}).rename(columns={"target": "changed as asked"}).round(1)
