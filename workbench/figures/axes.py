"""What the columns of result rows measure: words and unit for the axis, scale, direction, and whether log axes make sense."""

from __future__ import annotations

from typing import NamedTuple


class Axis(NamedTuple):
    """What a column measures: words, unit, factor from the column to that unit, which way is better, may it be logarithmic."""

    words: str
    unit: str
    scale: float = 1.0
    better: str = ""
    log: bool = False

    @property
    def title(self) -> str:
        return f"{self.words} ({self.unit})"


AXES = {
    "perplexity": Axis("Perplexity", "lower is better", 1.0, "lower", True),
    "accuracy": Axis("Accuracy", "share of items right", 1.0, "higher"),
    "loss": Axis("Loss", "nats per token", 1.0, "lower", True),
    "error": Axis("Output error", "share of the output", 1.0, "lower", True),
    "disk_bytes": Axis("Size on disk", "MB", 1e-6, "lower", True),
    "ram_bytes": Axis("Size in memory", "MB", 1e-6, "lower", True),
    "peak_bytes": Axis("Peak memory", "MB", 1e-6, "lower", True),
    "training_bytes": Axis("Memory while training", "MB", 1e-6, "lower", True),
    "file_bytes": Axis("Size of the file", "MB", 1e-6, "lower", True),
    "step_seconds": Axis("Time of a step", "seconds", 1.0, "lower", True),
    "trainable": Axis("Trainable parameters", "millions", 1e-6, "lower", True),
    "prefill_tps": Axis("Reading speed", "tokens per second", 1.0, "higher", True),
    "decode_tps": Axis("Writing speed", "tokens per second", 1.0, "higher", True),
    "seconds": Axis("Time spent", "seconds", 1.0, "lower", True),
    "bits_per_weight": Axis("Storage", "bits per weight", 1.0, "lower"),
    "step": Axis("Step", "optimizer updates"),
}


def axis(column: str) -> Axis:
    """The axis of a column; a column that is not listed keeps its own name and no direction."""
    return AXES.get(column) or Axis(column.replace("_", " ").capitalize(), "no unit")
