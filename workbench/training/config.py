"""Settings of a fine-tuning, one dataclass: command line, app form and run folder all read this signature.

Every field carries its help in LOOK.md's order (what it does · what it costs · usual value). `problems()` looks at the
numbers alone: no import of torch, no file is opened. `prepare.prepare` adds what only data and model can tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from workbench.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["linear", "cosine", "constant", "wsd"]
Kind = Literal["text", "prompt-completion", "chat", "classification"]


@dataclass(frozen=True)
class FinetuneConfig:
    """What to train, on what, how; see each field's `metadata["help"]`."""

    model: str = field(
        metadata={"help": "Model to start from: a bundled name, a folder, or a hub id. Larger is better and slower."}
    )
    data: str = field(
        metadata={
            "help": "Text to learn: a bundled name, a file (.txt .csv .jsonl .parquet), or a folder of .txt files."
        }
    )
    method: str = field(
        default="lora",
        metadata={
            "help": "How to train. Adapters change 0.01–2 % of the parameters; full changes all and needs 4 times the "
            "model in memory. Usual: lora."
        },
    )
    method_args: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Arguments of the method. More rank costs parameters. Empty uses the method's own defaults."},
    )
    steps: int = field(
        default=100, metadata={"help": "Optimizer updates. Time grows in proportion. 50–1000 for most tasks."}
    )
    batch_size: int = field(
        default=8, metadata={"help": "Rows per forward pass. Memory and time grow in proportion. Usual: 4–32."}
    )
    window: int = field(
        default=128,
        metadata={
            "help": "Tokens per row at most, up to what the model reads. Memory and time grow with it. Usual: 128–1024."
        },
    )
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Size of an update. Too large diverges, too small learns nothing. Empty takes the method's usual value."
        },
    )
    schedule: Schedule = field(
        default="linear",
        metadata={
            "help": "How the learning rate falls after warm-up; wsd holds it and falls over the last tenth. Costs nothing. "
            "Usual: linear."
        },
    )
    warmup: float = field(
        default=0.05,
        metadata={"help": "Share of the steps in which the learning rate rises from zero. Usual: 0.03–0.1."},
    )
    weight_decay: float = field(
        default=0.0,
        metadata={
            "help": "Pull of trained weights towards zero. Costs nothing. Usual: 0 for adapters, 0.01–0.1 for full."
        },
    )
    max_grad_norm: float = field(
        default=1.0,
        metadata={
            "help": "Gradients longer than this are shortened. Costs about 1 % of a step. Usual: 1; 0 turns it off."
        },
    )
    accumulation: int = field(
        default=1,
        metadata={
            "help": "Forward passes per update: a larger batch without more memory. Time grows in proportion. Usual: 1–16."
        },
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={
            "help": "Recompute activations instead of keeping them. About 30 % more time for much less memory. Usual: off."
        },
    )
    precision: Precision = field(
        default="auto",
        metadata={
            "help": "Arithmetic of the forward pass. bf16 halves activations; auto times both and takes the faster."
        },
    )
    quantize: str | None = field(
        default=None,
        metadata={
            "help": "Compress the frozen model before training: nf4, rtn-4, gptq-4 … Saves memory, costs some quality. "
            "Usual: empty."
        },
    )
    eval_every: int = field(
        default=20,
        metadata={
            "help": "Steps between two evaluations. Each costs one pass over the evaluation rows. Usual: 10–100."
        },
    )
    eval_rows: int = field(
        default=64,
        metadata={"help": "Evaluation rows at most, evenly spread. More is slower and less noisy. Usual: 32–512."},
    )
    save_every: int = field(
        default=0,
        metadata={
            "help": "Steps between two checkpoints; every better evaluation saves one too. Costs disk. 0: at each evaluation."
        },
    )
    early_stopping: int = field(
        default=0,
        metadata={
            "help": "Stop after this many evaluations without a better one. Saves time. Usual: 3–5; 0 turns it off."
        },
    )
    kind: Kind | None = field(default=None, metadata={"help": "What a row is. Empty guesses it from the columns."})
    columns: dict[str, str] | None = field(
        default=None,
        metadata={"help": "Which column plays which role (text, label, prompt, completion, messages, group)."},
    )
    limit: int | None = field(
        default=None,
        metadata={"help": "Use this many rows, evenly spread. Fewer is faster and learns less. Empty uses all."},
    )
    evaluation: float = field(
        default=0.1,
        metadata={"help": "Share of the documents that steers training and picks the best checkpoint. Usual: 0.1."},
    )
    test: float = field(
        default=0.1, metadata={"help": "Share of the documents kept unseen for the comparison afterwards. Usual: 0.1."}
    )
    mask_prompt: bool = field(
        default=True, metadata={"help": "Learn answers only, not the prompts. Costs nothing. Usual: on."}
    )
    seed: int = field(
        default=0,
        metadata={
            "help": "Seed of the new weights, the order of rows and dropout. Costs nothing; vary it to see the noise."
        },
    )
    split_seed: int | None = field(
        default=None, metadata={"help": "Seed of the split into training, evaluation and test. Empty takes the seed."}
    )

    def problems(self) -> list[str]:
        """Every value that cannot work, one sentence each; empty when all can."""
        found = []
        for name, low in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name in ("limit", "split_seed"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                found.append(f"{name} is {value!r}; it takes a whole number from {low} up.")
        for name, (low, high, open_low) in _REAL.items():
            value = getattr(self, name)
            if value is None and name == "learning_rate":
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < low or value >= high or (open_low and value == low):
                bound = f"above {low:g}" if open_low else f"from {low:g}"
                upper = "" if math.isinf(high) else f" to below {high:g}"
                found.append(f"{name} is {value!r}; it takes a number {bound}{upper}.")
        for name, options in _CHOICES.items():
            value = getattr(self, name)
            if value not in options and not (value is None and name == "kind"):
                found.append(f"{name} is {value!r}; it takes one of {', '.join(options)}.")
        if not isinstance(self.method_args, dict):
            found.append(f"method_args is {self.method_args!r}; it takes names with values, such as r=8.")
        for name in ("model", "data", "method"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                found.append(f"{name} is empty; {_FIELD_HELP[name][0].lower()}{_FIELD_HELP[name][1:]}")
        return found

    def check(self) -> None:
        """Raise all problems at once.

        Raises:
            UserError: when any value cannot work.
        """
        raise_all(self.problems())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FinetuneConfig:
        """Settings from plain data (a run folder, a form).

        Raises:
            UserError: names that are no setting, or a missing model or data.
        """
        known = {field.name for field in fields(cls)}
        problems = [f"There is no setting called {name!r}." for name in sorted(set(values) - known)]
        problems += [f"{name} is missing." for name in ("model", "data") if name not in values]
        if problems:
            raise_all([*problems, f"The settings are: {', '.join(sorted(known))}."])
        return cls(**values)


_WHOLE = {
    "steps": 1, "batch_size": 1, "window": 2, "accumulation": 1, "eval_every": 1, "eval_rows": 1, "save_every": 0,
    "early_stopping": 0, "limit": 1, "seed": 0, "split_seed": 0,
}  # fmt: skip
_REAL = {  # lowest, below which, lowest itself excluded
    "learning_rate": (0.0, math.inf, True),
    "warmup": (0.0, 1.0, False),
    "weight_decay": (0.0, math.inf, False),
    "max_grad_norm": (0.0, math.inf, False),
    "evaluation": (0.0, 1.0, False),
    "test": (0.0, 1.0, False),
}
_CHOICES = {
    "schedule": Schedule.__args__,
    "precision": Precision.__args__,
    "kind": Kind.__args__,
}
_FIELD_HELP = {field.name: field.metadata["help"] for field in fields(FinetuneConfig)}


def raise_all(problems: list[str]) -> None:
    """Raise one error that names every problem; nothing when there is none.

    Raises:
        UserError: the sentences, numbered when there are several.
    """
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} problems: " + " ".join(f"({i}) {text}" for i, text in enumerate(problems, 1)))
