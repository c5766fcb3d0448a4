"""Solve a method's size argument for a budget, against the count on the real shapes.

Routes are tried in order of preference: the method's usual place with its size argument; single layers with one rank more;
other settings beside it; other layers. The first within ± 2 % is taken. When none is, the nearest is returned as *outside*.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from workbench.errors import UserError
from workbench.grid.settings import TOLERANCE
from workbench.grid.sizes import Knob, Shape, knob, placements
from workbench.training.methods import Method
from workbench.training.targets import linears

FIRST = 1 << 10  # a size argument that is refused up to here is refused altogether
MOST = 1 << 22  # size arguments above this are not tried


@dataclass(frozen=True)
class Match:
    """A setting and what it costs.

    Attributes:
        arguments: for the method.
        size: trained numbers, or bytes.
        budget: what was asked for.
        within: whether |size − budget| ≤ 2 % of the budget.
    """

    arguments: dict[str, Any]
    size: int
    budget: float
    within: bool

    @property
    def residual(self) -> float:
        """size / budget − 1."""
        return self.size / self.budget - 1


def match_budget(
    method: Method, shape: Shape, budget: float, kind: str = "params", fixed: dict[str, Any] | None = None
) -> Match:
    """The setting of a method whose size is nearest to a budget.

    Args:
        method: from `find_method`.
        shape: the model without numbers.
        budget: trained numbers or bytes, head left out.
        kind: params or bytes.
        fixed: arguments that are given and not to be changed.

    Raises:
        UserError: the method cannot be put on this model at all; the sentence says why.
    """
    fixed = dict(fixed or {})
    best: Match | None = None
    reason: UserError | None = None

    def consider(args: dict[str, Any]) -> int | None:
        nonlocal best, reason
        try:
            size = shape.size(method, args, kind)
        except UserError as error:
            reason = reason or error
            return None
        found = Match(dict(args), size, budget, abs(size / budget - 1) <= TOLERANCE)
        if size and (best is None or abs(size - budget) < abs(best.size - budget)):
            best = found
        return size

    for route in _routes(method, shape, fixed, lambda: best is not None and best.within):
        _search(knob(method), route, shape, budget, consider)
    if best is None:
        raise UserError(f"{method.name} has no setting for this model: {reason or 'nothing of it would train'}")
    return best


def _routes(method: Method, shape: Shape, fixed: dict[str, Any], done: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Arguments beside the size argument, most natural first; ends once a setting fits."""
    how = knob(method)
    beside = [{k: shape.window if v == "window" else v for k, v in more.items()} for more in how.beside]
    for more in beside:
        if not done():
            yield {**more, **fixed}
    if not how.places or "target_modules" in fixed:
        return
    extra = {"feedforward_modules": []} if method.name == "ia3" else {}
    for pattern in placements(shape.bare):
        if done():
            return
        yield {"target_modules": pattern, **extra, **fixed}


def _search(
    how: Knob, route: dict[str, Any], shape: Shape, budget: float, consider: Callable[[dict[str, Any]], int | None]
) -> None:
    """Consider the settings of one route around the budget: doubling, then halving the interval."""
    if how.argument is None or how.argument in route:
        consider(route)
        return

    def at(index: int) -> int | None:
        if not how.by_basis:
            return consider({**route, how.argument: how.least + how.step * index})
        side = _side(route, shape)
        return consider({**route, how.argument: -(-side // (index + 1))}) if index < side else None

    low, size = 0, at(0)
    while size is None and low < FIRST:  # some methods need one number per matrix at least
        low = max(1, 2 * low)
        size = at(low)
    if size is None or size >= budget:
        return
    high = max(1, 2 * low)
    while high < MOST:
        size = at(high)
        if size is None or size >= budget:
            break
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        size = at(middle)
        if size is None or size >= budget:
            high = middle
        else:
            low = middle
    if how.by_basis:
        _between_bases(how, route, shape, low + 1, consider)
    if how.fractional and not how.by_basis:
        _one_rank_more(how, route, shape, budget, low, consider)


def _side(route: dict[str, Any], shape: Shape) -> int:
    """Smaller side of the largest targeted matrix."""
    shapes = _targeted(route, shape)
    return max(min(pair) for pair in shapes.values())


def _targeted(route: dict[str, Any], shape: Shape) -> dict[str, tuple[int, int]]:
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    layers = linears(shape.bare)
    pattern = route.get("target_modules")
    if isinstance(pattern, str) and pattern != "all-linear":
        return {name: pair for name, pair in layers.items() if re.fullmatch(pattern, name)}
    names = pattern if isinstance(pattern, list) else USUAL.get(shape.config.model_type)
    hit = {n: pair for n, pair in layers.items() if names and any(n == t or n.endswith(f".{t}") for t in names)}
    return hit or layers


def _between_bases(
    how: Knob, route: dict[str, Any], shape: Shape, n: int, consider: Callable[[dict[str, Any]], int | None]
) -> None:
    """With n products fixed the size still grows with the rank: try the ranks between two numbers of products."""
    side = _side(route, shape)
    for products in (n, n + 1):
        low, high = -(-side // products), -(-side // max(1, products - 1)) - 1
        for rank in sorted({low, (low + high) // 2, high}):
            if low <= rank <= high:
                consider({**route, how.argument: rank})


def _one_rank_more(
    how: Knob, route: dict[str, Any], shape: Shape, budget: float, index: int,
    consider: Callable[[dict[str, Any]], int | None],
) -> None:  # fmt: skip
    """Between rank r and r + 1: the first k targeted layers get r + 1."""
    rank = how.least + index
    base, above = consider({**route, how.argument: rank}), consider({**route, how.argument: rank + 1})
    if base is None or above is None or abs(base / budget - 1) <= TOLERANCE or abs(above / budget - 1) <= TOLERANCE:
        return
    layers = list(_targeted(route, shape))
    more = round(len(layers) * (budget - base) / (above - base))
    for k in sorted({max(1, more - 1), more, more + 1}):
        if 0 < k < len(layers):
            consider({**route, how.argument: rank, "rank_pattern": dict.fromkeys(layers[:k], rank + 1)})
