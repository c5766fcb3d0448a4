"""A small real job: logistic regression on scikit-learn's digits, by momentum descent, with exact resume.

Idea: the smallest training that has everything a long one has (batches, optimizer state, checkpoints, metrics, stop),
so that `workbench doctor` and the tests can prove the store on any machine in seconds.

    logits = X W + b, loss = −mean log softmax(logits)[y] + λ/2 |W|²,   m ← μ m + ∇loss,  W ← W − η m

X (1797, 64) pixels in 0–1, y digits 0–9, W (64, 10), b (10). Batches come from a generator seeded with (seed, step),
so the step number and the four arrays are the whole state: an interrupted run ends with the same weights to the last
bit. The digits are read from scikit-learn's own data file, because importing scikit-learn takes two seconds.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import JobError, UserError

if TYPE_CHECKING:
    from workbench.runs.context import RunContext

DEFAULTS: dict[str, Any] = {
    "steps": 300,
    "learning_rate": 0.3,
    "momentum": 0.9,
    "decay": 1e-4,
    "batch_size": 64,
    "save_every": 50,
    "log_every": 10,
    "seed": 0,
}
HELD_OUT = 360  # images


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 64) in 0–1 and labels (1797,), in the order scikit-learn gives them."""
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise JobError('scikit-learn is not installed; run: pip install "scikit-learn>=1.9"')
    table = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1] / 16.0, table[:, -1].astype(int)


def gradient(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, decay: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss (nats) and its gradients: (64, 10) for the weight, (10,) for the bias."""
    logits = x @ weight + bias  # (batch, 10)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_share = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -log_share[rows, y].mean() + 0.5 * decay * (weight**2).sum()
    error = np.exp(log_share)
    error[rows, y] -= 1.0
    error /= len(y)
    return float(loss), x.T @ error + decay * weight, error.sum(axis=0)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(config) - set(DEFAULTS))
    if unknown:
        raise UserError(f"The job selftest does not know {', '.join(unknown)}; it knows {', '.join(DEFAULTS)}.")
    chosen = {**DEFAULTS, **config}
    for name in ("steps", "batch_size", "save_every", "log_every"):
        if not isinstance(chosen[name], int) or chosen[name] < 1:
            raise UserError(f"{name} is {chosen[name]!r}; it takes a whole number from 1 up.")
    return chosen


def run(context: RunContext) -> dict[str, Any]:
    """Train, or go on from `checkpoints/last.safetensors`.

    Returns:
        step reached, accuracy on the 360 held-out images, path of the weights; `stopped` when it was asked to stop.

    Raises:
        UserError: unknown or impossible settings.
    """
    from safetensors.numpy import load_file, save_file

    chosen = _settings(context.config)
    x, y = digits()
    order = np.random.default_rng(chosen["seed"]).permutation(len(y))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    path = context.checkpoints / "last.safetensors"
    if path.exists():
        state = load_file(path)
    else:
        state = {"weight": np.zeros((64, 10)), "bias": np.zeros(10), "m_weight": np.zeros((64, 10))}
        state |= {"m_bias": np.zeros(10), "step": np.zeros(1, dtype=np.int64)}

    def save() -> None:
        beside = path.with_suffix(".new")
        save_file(state, beside)
        os.replace(beside, path)

    steps, stopped = chosen["steps"], False
    for step in range(int(state["step"][0]) + 1, steps + 1):
        batch = np.random.default_rng([chosen["seed"], step]).choice(train, chosen["batch_size"])
        loss, slope, slope_bias = gradient(x[batch], y[batch], state["weight"], state["bias"], chosen["decay"])
        state["m_weight"] = chosen["momentum"] * state["m_weight"] + slope
        state["m_bias"] = chosen["momentum"] * state["m_bias"] + slope_bias
        state["weight"] = state["weight"] - chosen["learning_rate"] * state["m_weight"]
        state["bias"] = state["bias"] - chosen["learning_rate"] * state["m_bias"]
        state["step"][0] = step
        if step % chosen["log_every"] == 0 or step == steps:
            context.log_metrics(step=step, loss=loss)
        context.progress(step, steps, f"step {step} of {steps}, loss {loss:.3f}")
        stopped = step < steps and context.should_stop()
        if stopped or step % chosen["save_every"] == 0 or step == steps:
            save()
        if stopped:
            break
    accuracy = float((np.argmax(x[test] @ state["weight"] + state["bias"], axis=1) == y[test]).mean())
    return {"step": int(state["step"][0]), "accuracy": accuracy, "path": str(path), "stopped": stopped}
