"""What lesson 14 shows beside the page `mup`: the price of not tuning again, the infinite limit, the regimes in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.papers.mup import digits, of


def price_of_not_tuning(rows: pd.DataFrame) -> pd.DataFrame:
    """Loss at the rate tuned at the narrowest width, and at the rate tuned at each width itself.

    Args:
        rows: the rows of one or more seeds, as `experiment` makes them.

    Returns:
        One row per width, two columns per parametrization: geometric means (nats) over seeds, rates picked per seed.
    """
    rates = of(rows, "rate").assign(log=lambda t: np.log(t["loss"]))
    narrow = rates[rates["width"] == rates["width"].min()]
    keys = ["seed", "parametrization"]
    tuned = narrow.loc[narrow.groupby(keys)["log"].idxmin()].set_index(keys)["rate"]
    kept = rates[rates["rate"].to_numpy() == tuned.reindex(pd.MultiIndex.from_frame(rates[keys])).to_numpy()]
    own = rates.loc[rates.groupby([*keys, "width"])["log"].idxmin()]
    columns = {}
    for kind in dict.fromkeys(rates["parametrization"]):
        for words, part in ((f"rate of width {narrow['width'].min()}", kept), ("own rate", own)):
            mine = part[part["parametrization"] == kind]
            columns[kind, words] = np.exp(mine.groupby("width")["log"].mean())
    return pd.DataFrame(columns)


def linear_curves(widths: tuple[int, ...], steps: int = 40, rate: float = 0.3, seed: int = 0) -> pd.DataFrame:
    """Train linear networks of some widths, and the infinitely wide one, on the digits by full-batch SGD.

    Args:
        widths: hidden units of the finite networks.
        steps: SGD steps.
        rate: learning rate, the same for all.
        seed: of the finite networks.

    Returns:
        Rows for `workbench.figures.curves`: run, split, step, value (mean squared error of the 10 outputs).
    """
    import torch
    from torch.nn.functional import mse_loss, one_hot

    from workbench.training.mup_infinite import InfiniteLinearMup

    x, y = digits("cpu")
    target = one_hot(y).float()
    infinite = InfiniteLinearMup(64, 10)
    networks = {f"width {width}": infinite.sample(width, seed) for width in widths} | {"infinite": infinite}
    rows = []
    for name, model in networks.items():
        optimizer = torch.optim.SGD(model.parameters(), rate)
        for step in range(steps + 1):
            loss = mse_loss(model(x), target)
            rows.append({"run": name, "split": "eval", "step": step, "value": loss.item()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return pd.DataFrame(rows)


def regime_in_words(c: float) -> str:
    """What becomes of a wide network with the standard start when its SGD rate falls as n^(−c)."""
    from workbench.training.mup import abc_regime

    found = abc_regime((0, 0, 0, 0), (0, 0.5, 0.5, 0.5), c)
    if not found["stable"]:
        return "unstable, it blows up with width"
    if not found["nontrivial"]:
        return "stable, but nothing is learned in finite time"
    return (
        "stable, "
        + ("features move" if found["feature_learning"] else "features frozen (a kernel)")
        + f", r = {found['r']:g}"
    )
