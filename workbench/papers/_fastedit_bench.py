"""The instruments of the page `fastedit`: base, judge and second MiniCLIP, and the cost of whatever is run on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from workbench.vision.captions import tokens
from workbench.vision.judge import judge
from workbench.vision.mini_diffusion import load_clip, load_miniature, load_reader

if TYPE_CHECKING:
    from workbench.vision.requests import Request


def counted(run: Callable[[], Any], timed: bool) -> tuple[Any, dict[str, float]]:
    """Run something and say what it cost.

    Args:
        run: what to run.
        timed: take the time; otherwise count billions of multiply-adds (counting slows a run down, so never both).

    Returns:
        The result, and `seconds` and `work` (one of them is 0).
    """
    if timed:
        began = time.perf_counter()
        return run(), {"seconds": time.perf_counter() - began, "work": 0.0}
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, {"seconds": 0.0, "work": counter.get_total_flops() / 2e9}


class Bench:
    """Loaded once, used for every request of a seed."""

    def __init__(self) -> None:
        self.base, self.reader, self.second = load_miniature(), load_reader(), load_clip("b")

    def fit(self, fit: Callable[..., Any], request: Request, timed: bool) -> tuple[Any, dict[str, float]]:
        """Close what is open on the base, then fit one arm; returns the session and its cost."""
        if getattr(self.base, "session", None) is not None:
            self.base.session.close()
        return counted(lambda: fit(self.base, request.picture, request.prompt), timed)

    def paint(
        self, session: Any, knobs: tuple[float, ...], steps: int, seed: int, timed: bool
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Edits at every value of the knob (n, 3, 32, 32), and the cost of *one* edit, at the largest value."""
        _, cost = counted(lambda: session.sweep(knobs[-1:], seed=seed, steps=steps), timed)
        return session.sweep(knobs, seed=seed, steps=steps), cost

    @torch.no_grad()
    def judge(self, request: Request, pictures: torch.Tensor) -> list[dict[str, float]]:
        """Target, kept, distance, feature distance and the second MiniCLIP's cosine with the prompt, per picture."""
        scores = judge(self.reader, pictures, request.original, request.wanted, request.ideal[0], request.changed)
        text = self.second.encode_text(tokens([request.prompt]))
        cosine = torch.cosine_similarity(self.second.encode_image(pictures), text).tolist()
        keys = ("target", "kept", "distance", "feature")
        return [
            {**{key: round(row[key], 5) for key in keys}, "clip": round(c, 5)}
            for row, c in zip(scores, cosine, strict=True)
        ]
