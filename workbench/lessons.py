"""Checkers of the lessons' exercises, and the progress bar of a notebook.

A checker never raises on a wrong answer and never shows the right one: it returns a `Check` that says what is wrong and
what to look at next. Each exercise's checker is one function here, named after the lesson's subject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.progress import Progress, span

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Check:
    """The answer to an answer: shown by a notebook as one line of text."""

    passed: bool
    text: str

    def __str__(self) -> str:
        return ("✓ " if self.passed else "Not yet: ") + self.text

    def _repr_markdown_(self) -> str:
        return ("**✓** " if self.passed else "**Not yet.** ") + self.text


def progress_bar() -> Progress:
    """A progress callable that draws one bar in the notebook, with the time left."""
    import time

    import ipywidgets as widgets
    from IPython.display import display

    bar = widgets.FloatProgress(value=0.0, min=0.0, max=1.0, layout=widgets.Layout(width="100%"))
    label, start = widgets.Label("starting"), time.monotonic()
    display(widgets.VBox([bar, label]))

    def progress(done: float, total: float, text: str) -> None:
        share = min(1.0, done / total) if total else 1.0
        spent = time.monotonic() - start
        bar.value = share
        left = f"about {span(spent / share - spent)} left" if 0.02 < share < 1 else f"{span(spent)} so far"
        label.value = f"{share:.0%} · {text} · {left}"

    return progress


def knob(draw: Callable[..., Any], options: dict[str, Any] | None = None, /, **inputs: Any) -> Any:
    """Widgets that call a function when they are turned, with the figure or table that it returns below them.

    Args:
        draw: takes the inputs by name. (`ipywidgets.interactive` alone calls it and shows nothing of what it returns.)
        options: of `ipywidgets.interactive`: `manual` waits for a button with the words `manual_name`.
        inputs: a widget, or what `ipywidgets` makes one of, for each argument.
    """
    from workbench.lesson_knob import Knob

    return Knob(draw, options or {}, **inputs)


def check_numbers_trained(lora: Any, nola: Any) -> Check:
    """Lesson 05, exercise 1: numbers trained on the query and value layers of tiny-lm.

    Args:
        lora: the answer for LoRA at rank one on 4 layers with two 192 × 192 matrices each.
        nola: the answer for NOLA with 48 random matrices per factor on the same layers.
    """
    modules, side, k = 8, 192, 48
    for name, value in (("lora", lora), ("nola", nola)):
        if isinstance(value, bool) or not isinstance(value, int):
            return Check(False, f"`{name}` is {value!r}; put a whole number there.")
    if lora != modules * 2 * side:
        hints = {
            2 * side: "`lora` counts one matrix; how many matrices are adapted in all four layers?",
            modules * side: "`lora` counts one factor; rank one has a column **and** a row.",
            modules * side * side: "`lora` counts the whole matrices; LoRA trains two thin factors instead.",
            4 * 2 * side: "`lora` counts one matrix per layer; query and value are two.",
        }
        return Check(
            False, hints.get(lora, "`lora` is off; a rank-one factor pair of a d × d matrix has d + d numbers.")
        )
    if nola != modules * 2 * k:
        hints = {
            modules * k: "`nola` counts one factor; α belongs to A, and B has its own.",
            2 * k: "`nola` counts one matrix; how many are adapted?",
            4 * 2 * k: "`nola` counts one matrix per layer; query and value are two.",
        }
        if nola in {modules * 2 * k * r for r in (4, 8)}:
            return Check(False, "`nola` grows with the rank here; look at the formula again: what is trained has no r.")
        return Check(
            False, hints.get(nola, "`nola` is off; it depends on k and on how many matrices are adapted only.")
        )
    return Check(True, f"NOLA trains {nola / lora:.0%} of what LoRA's smallest adapter does, and its rank is free.")


def check_combination(answer: Callable[..., torch.Tensor]) -> Check:
    """Lesson 05, exercise 2: Σ_j c_j M_j with never more than a few matrices in memory.

    Args:
        answer: function (coeffs, shape, seed) → tensor of `shape`, M_j being numbers j·n … (j+1)·n of the stream.
    """
    import torch

    from workbench.adapters.nola import random_combination
    from workbench.papers._memory import peak_bytes

    generator = torch.Generator().manual_seed(0)
    coeffs, shape, seed = torch.randn(64, generator=generator), (48, 32), 7
    try:
        with torch.no_grad():
            got = answer(coeffs, shape, seed)
    except Exception as error:  # a participant's function may fail in any way; the hint must still come
        return Check(False, f"your function stopped with {type(error).__name__}: {error}.")
    if not isinstance(got, torch.Tensor):
        return Check(False, f"your function returned {type(got).__name__}; return a tensor of shape {shape}.")
    if got.shape != shape:
        return Check(False, f"the result has shape {tuple(got.shape)}, wanted {shape}.")
    expected = random_combination(coeffs, shape, seed)
    if not torch.allclose(got, expected, rtol=1e-4, atol=1e-4):
        if torch.allclose(got * len(coeffs) ** 0.5, expected, rtol=1e-3, atol=1e-3):
            return Check(False, "the result is √k times too small; the factor 1/√k is applied outside this function.")
        first = random_combination(coeffs.sum().reshape(1), shape, seed)
        if torch.allclose(got, first, rtol=1e-3, atol=1e-3):
            return Check(False, "every term uses the same matrix; where does matrix j start in the stream?")
        return Check(False, "the numbers differ; matrix j is made of the numbers j·n to (j+1)·n of the stream.")
    with torch.no_grad():
        peak = peak_bytes(lambda: answer(coeffs, shape, seed))
    one = 4 * shape[0] * shape[1]
    if peak > 12 * one:
        return Check(
            False, f"right, but {peak / one:.0f} matrices were in memory at once; make and drop them one by one."
        )
    return Check(True, f"right, with {peak / one:.1f} matrices' worth of memory at the peak instead of 64.")
