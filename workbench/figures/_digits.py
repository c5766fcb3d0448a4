"""Real rows for the figures' examples: a small network on scikit-learn's handwritten digits, adapted and quantized.

A 64–48–10 network (ReLU, numpy, Adam) learns upright digits, is then adapted to digits turned by 90° in four ways (all
weights; rank-4 update W + BA; biases only; a fixed random tenth of the weights), and its first layer is rounded to
nearest at 8, 4, 3 and 2 bits per output unit. Everything is measured when first asked for (about a second) and kept.
Intervals are 95 % bootstrap intervals over test images.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

HIDDEN, RANK, STEPS, BATCH = 48, 4, 160, 64
Params = dict[str, np.ndarray]


@functools.cache
def _data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # here, so that importing the figures stays quick

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    upright = digits.images[order] / 16.0  # (1797, 8, 8)
    turned = np.rot90(upright, axes=(1, 2))
    return upright.reshape(-1, 64), turned.reshape(-1, 64), digits.target[order]


def _effective(p: Params) -> np.ndarray:
    return p["w1"] + p["a"] @ p["b"] if "a" in p else p["w1"]  # (64, 48)


def logits(p: Params, x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ _effective(p) + p["b1"], 0) @ p["w2"] + p["b2"]  # (n, 10)


def _loss_and_grads(p: Params, x: np.ndarray, y: np.ndarray) -> tuple[float, Params]:
    hidden = np.maximum(x @ _effective(p) + p["b1"], 0)
    z = hidden @ p["w2"] + p["b2"]
    z -= z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    dz = np.exp(log_p)
    dz[np.arange(len(y)), y] -= 1
    dz /= len(y)
    dh = dz @ p["w2"].T * (hidden > 0)
    dw1 = x.T @ dh
    grads = {"w1": dw1, "b1": dh.sum(0), "w2": hidden.T @ dz, "b2": dz.sum(0)}
    if "a" in p:
        grads |= {"a": dw1 @ p["b"].T, "b": p["a"].T @ dw1}
    return float(-log_p[np.arange(len(y)), y].mean()), grads


def _train(
    p: Params, masks: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, rate: float, seed: int
) -> tuple[Params, list]:
    """Adam on the first 1 200 images; evaluation on the next 200 every 16 steps. `masks` names what may move."""
    rng, p = np.random.default_rng(seed), {k: v.copy() for k, v in p.items()}
    m, v = ({k: np.zeros_like(p[k]) for k in masks} for _ in range(2))
    curve = []
    for step in range(1, STEPS + 1):
        rows = rng.integers(0, 1200, BATCH)
        loss, grads = _loss_and_grads(p, x[rows], y[rows])
        curve.append(("train", step, loss))
        for k, mask in masks.items():
            g = grads[k] * mask
            m[k], v[k] = 0.9 * m[k] + 0.1 * g, 0.99 * v[k] + 0.01 * g * g
            p[k] -= rate * (m[k] / (1 - 0.9**step)) / (np.sqrt(v[k] / (1 - 0.99**step)) + 1e-8)
        if step == 1 or step % 16 == 0:
            curve.append(("eval", step, _loss_and_grads(p, x[1200:1400], y[1200:1400])[0]))
    return p, curve


@functools.cache
def runs() -> dict[str, tuple[Params, list, int]]:
    """Method → (parameters, curve of (split, step, nats per image), trained numbers)."""
    upright, turned, y = _data()
    rng = np.random.default_rng(1)
    start = {
        "w1": rng.normal(0, 0.12, (64, HIDDEN)), "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0, 0.14, (HIDDEN, 10)), "b2": np.zeros(10),
    }  # fmt: skip
    everything = {k: np.ones_like(v) for k, v in start.items()}
    base, _ = _train(start, everything, upright, y, 0.01, seed=2)
    low_rank = {**base, "a": rng.normal(0, 0.2, (64, RANK)), "b": np.zeros((RANK, HIDDEN))}
    plans = {
        "full": (base, everything),
        "lora": (low_rank, {"a": np.ones((64, RANK)), "b": np.ones((RANK, HIDDEN))}),
        "bitfit": (base, {"b1": np.ones(HIDDEN), "b2": np.ones(10)}),
        "sparse": (base, {"w1": (rng.random((64, HIDDEN)) < 0.1).astype(float)}),
    }
    found = {"base": (base, [], 0)}
    for name, (params, masks) in plans.items():
        trained, curve = _train(params, masks, turned, y, 0.01, seed=3)
        found[name] = (trained, curve, int(sum(mask.sum() for mask in masks.values())))
    return found


def _rounded(w: np.ndarray, bits: int) -> np.ndarray:
    low, high = w.min(0), w.max(0)  # per output unit
    scale = (high - low) / (2**bits - 1)
    return np.round((w - low) / scale) * scale + low


@functools.cache
def quantized() -> dict[str, Params]:
    """The fully adapted network with its two matrices rounded to nearest, per output unit."""
    full = runs()["full"][0]
    return {f"rtn-{b}": {**full, "w1": _rounded(full["w1"], b), "w2": _rounded(full["w2"], b)} for b in (8, 4, 3, 2)}


def curve_rows() -> pd.DataFrame:
    """Columns run, method, split, step, value (nats per image)."""
    rows = [(name, name, *point) for name, (_, curve, _) in runs().items() for point in curve]
    return pd.DataFrame(rows, columns=["run", "method", "split", "step", "value"])


def accuracy_rows() -> pd.DataFrame:
    """Columns name, accuracy, accuracy_low, accuracy_high, n, tied, disk_bytes: all methods and bit widths on 397 images."""
    _, turned, y = _data()
    x, target = turned[1400:], y[1400:]
    variants = {**{name: run[0] for name, run in runs().items()}, **quantized()}
    right = np.stack([logits(p, x).argmax(1) == target for p in variants.values()]).astype(float)  # (variants, items)
    draws = np.random.default_rng(4).integers(0, len(target), (1000, len(target)))
    means = right[:, draws].mean(-1)  # (variants, 1000)
    best = right.mean(1).argmax()
    gap_low, gap_high = np.quantile(means[best] - means, [0.025, 0.975], axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    bits = [int(name[4:]) if name.startswith("rtn-") else 32 for name in variants]
    numbers = 64 * HIDDEN + HIDDEN * 10
    return pd.DataFrame(
        {
            "name": list(variants), "accuracy": right.mean(1), "accuracy_low": low, "accuracy_high": high, "n": len(target),
            "tied": (gap_low <= 0) & (gap_high >= 0), "disk_bytes": [numbers * b // 8 for b in bits],
        }
    )  # fmt: skip


def layer_rows() -> pd.DataFrame:
    """Columns method, layer, error: relative output error of each matrix after rounding, on the test images."""
    _, turned, _ = _data()
    full = runs()["full"][0]
    inputs = {"w1": turned[1400:], "w2": np.maximum(turned[1400:] @ full["w1"] + full["b1"], 0)}
    rows = []
    for name, p in quantized().items():
        for layer, x in inputs.items():
            error = np.linalg.norm(x @ (p[layer] - full[layer])) / np.linalg.norm(x @ full[layer])
            rows.append((name, layer, error))
    return pd.DataFrame(rows, columns=["method", "layer", "error"])
