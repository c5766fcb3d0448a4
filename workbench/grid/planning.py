"""The plan of a grid: every method sized for the budget, its learning rates drawn, and every cell named by its content.

Nothing is trained here and no weight is read; all that cannot work is refused in one sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import UserError
from workbench.evaluation.cells import key
from workbench.grid import settings as rules
from workbench.training.methods import Method, find_method

if TYPE_CHECKING:
    from workbench.grid.sizes import Shape
    from workbench.grid.solver import Match

HEAD_RATE = 1e-2  # usual learning rate where only a classification head trains (the row `base`)


@dataclass
class Row:
    """One method on one model, task and base: a row of the table.

    Attributes:
        name: distinct in its block (method, or method+base).
        model, task, base, method: what is trained on what.
        kind: text or classification.
        arguments: of the method, as solved.
        size: trained numbers or bytes that the budget counts; None where the budget is not about size.
        within: whether the budget is met.
        budget: in the same unit; None where the budget is not about size.
        trials: [{learning_rate, more arguments}], the same number for every row that trains.
        steps: updates; 0 trains nothing.
    """

    name: str
    model: str
    task: str
    base: str
    method: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    within: bool = True
    budget: float | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0

    @property
    def block(self) -> tuple[str, str]:
        """(model, task): rows of one block are judged against each other."""
        return self.model, self.task


@dataclass
class Plan:
    """What will be run.

    Attributes:
        settings: checked.
        rows: in the order in which they take turns.
        left_out: sentences on combinations that cannot exist, such as IA³ on a packed base.
    """

    settings: dict[str, Any]
    rows: list[Row]
    left_out: list[str]

    @property
    def cells(self) -> int:
        """Trainings in all, trials included."""
        return sum(len(row.trials) + (self.settings["seeds"] if row.steps else 1) for row in self.rows)


def plan(config: dict[str, Any]) -> Plan:
    """Check the settings against models and data, solve every size, draw every learning rate.

    Args:
        config: keys of `settings.DEFAULTS`.

    Raises:
        UserError: settings that cannot work, or a budget that a method cannot reach (unless `outside` allows it): the
            sentence names the nearest size.
    """
    from workbench import models

    found = rules.check(config)
    rows: list[Row] = []
    left_out: list[str] = []
    missed: list[str] = []
    for task in found["tasks"]:
        kind, labels = _kind(task, found)
        for model in found["models"]:
            shape = _shape(model, models.load_config(model), kind, labels, found)
            block = [Row("base", model, task, "none", "base", kind)]
            for base in found["bases"]:
                if base != "none" and kind != "classification":
                    block.append(Row(f"base+{base}", model, task, base, "base", kind))
                for name in ("full", *found["methods"]):
                    add = partial(_row, find_method(name), model, task, base, kind, shape, found)
                    try:
                        row = add()
                    except UserError as error:
                        left_out.append(f"{name} on {model}{'' if base == 'none' else '+' + base}: {error}")
                        continue
                    block.append(row)
                    if not row.within:
                        missed.append(_miss(row, found))
            rows += [_timed(row, found) for row in block]
    if missed and not found["outside"]:
        raise UserError(
            f"{len(missed)} method{'s' * (len(missed) > 1)} cannot reach the budget {found['budget']}: "
            f"{'; '.join(missed)}. Choose another budget, or allow rows outside it (they are drawn hollow)."
        )
    if not any(row.method not in rules.ALWAYS for row in rows):
        raise UserError(f"No method is left to compare: {' '.join(left_out)}")
    return Plan(found, rows, left_out)


def _kind(task: str, found: dict[str, Any]) -> tuple[str, int | None]:
    from workbench import data

    examples = data.load(task, limit=found["limit"])
    if examples.kind == "classification":
        return "classification", len(examples.labels)
    return ("text", None) if examples.kind == "text" else (examples.kind, None)


def _shape(model: str, config: Any, kind: str, labels: int | None, found: dict[str, Any]) -> Shape:
    from workbench.grid.sizes import Shape
    from workbench.models.loading import WRITES
    from workbench.training.prepare import check_window

    names = getattr(config, "architectures", None) or []
    if kind != "classification" and names and not any(WRITES.search(name) for name in names):
        raise UserError(
            f"{model} cannot continue a text; compare it on labelled data such as sotu-century, or take smollm2-135m."
        )
    check_window(found["window"], config)
    task = "sequence-classification" if kind == "classification" else "causal-lm"
    return Shape(config, task, labels, found["window"], found["steps"])


def _row(method: Method, model: str, task: str, base: str, kind: str, shape: Shape, found: dict[str, Any]) -> Row:
    from workbench.training.prepare import check_quantize

    name = method.name if base == "none" else f"{method.name}+{base}"
    row = Row(name, model, task, base, method.name, kind, steps=found["steps"])
    if base != "none":
        check_quantize(_Quantized(model, base), method, shape.config)
    fixed = dict(found["method_args"].get(method.name, {}))
    asked = rules.budget(found["budget"])
    if not asked.sized or method.name == "full":
        row.arguments = fixed
        row.size = shape.size(method, fixed, asked.kind) if asked.sized else None
        return row
    match = _solve(method, shape, asked, fixed)
    row.arguments, row.size, row.within, row.budget = match.arguments, match.size, match.within, match.budget
    return row


@dataclass(frozen=True)
class _Quantized:
    model: str
    quantize: str


def target(shape: Shape, asked: rules.Budget) -> float:
    """The budget in trained numbers or bytes on this model."""
    if asked.like is not None:
        return shape.size(find_method(asked.like[0]), asked.like[1], asked.kind)
    return asked.value * shape.total if asked.share else asked.value


def _solve(method: Method, shape: Shape, asked: rules.Budget, fixed: dict[str, Any]) -> Match:
    from workbench.grid.solver import match_budget

    return match_budget(method, shape, target(shape, asked), asked.kind, fixed)


def _miss(row: Row, found: dict[str, Any]) -> str:
    unit = "bytes" if rules.budget(found["budget"]).kind == "bytes" else "trained numbers"
    return f"{row.name} on {row.model} comes nearest with {row.size} {unit} ({row.size / row.budget - 1:+.1%})"


def _timed(row: Row, found: dict[str, Any]) -> Row:
    """Steps and trials of a row. Budgets of seconds are turned into steps later, from a timed step of the method."""
    asked = rules.budget(found["budget"])
    if row.method == "base" and row.kind != "classification":
        row.steps, row.trials = 0, []
        return row
    row.steps = found["steps"]
    if asked.kind == "tokens":
        row.steps = max(1, round(asked.value / (found["batch_size"] * found["window"])))
    row.trials = trials(row.method, found)
    return row


def usual_rate(method: str, found: dict[str, Any]) -> float:
    """The middle of what is tried: given in the settings, else the method's usual learning rate."""
    if method in found["rates"]:
        return float(found["rates"][method])
    return HEAD_RATE if method == "base" else find_method(method).learning_rate


def trials(method: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is tried for a method before it is judged.

    Learning rates lie in [usual/√span, usual·√span]: evenly spaced in the logarithm, or drawn log-uniformly
    (`search=random`, where further arguments are drawn from `space`). One trial takes the usual rate.
    """
    usual, count, half = usual_rate(method, found), found["trials"], math.sqrt(found["span"])
    if found["search"] == "log":
        powers = [0.0] if count == 1 else [2 * i / (count - 1) - 1 for i in range(count)]
        return [{"learning_rate": _tidy(usual * half**power)} for power in powers]
    rng = np.random.default_rng([found["first_seed"], *method.encode()])
    drawn = []
    for _ in range(count):
        trial: dict[str, Any] = {"learning_rate": _tidy(usual * half ** rng.uniform(-1, 1))}
        for name, choices in found["space"].get(method, {}).items():
            trial[name] = choices[int(rng.integers(len(choices)))]
        drawn.append(trial)
    return drawn


def _tidy(rate: float) -> float:
    """Three significant digits."""
    return float(f"{rate:.3g}")


def cell(row: Row, found: dict[str, Any], stage: str, trial: dict[str, Any], seed: int) -> dict[str, Any]:
    """One training as plain data, with the key that names it.

    Args:
        row: what is trained.
        found: the settings.
        stage: trial (judged on the evaluation part), final (on the test part) or probe (two steps, timed).
        trial: learning rate and further arguments.
        seed: of starting values, order and dropout.
    """
    more = {name: value for name, value in trial.items() if name != "learning_rate"}
    made = {
        "stage": stage, "name": row.name, "model": row.model, "task": row.task, "kind": row.kind, "base": row.base,
        "method": row.method, "arguments": {**row.arguments, **more}, "learning_rate": trial.get("learning_rate"),
        "seed": seed, "steps": row.steps,
        **{name: found[name] for name in ("batch_size", "window", "precision", "test_tokens", "general")},
    }  # fmt: skip
    return {**made, "key": key("grid", 1, made, material_key(row, found))}


def material_key(row: Row, found: dict[str, Any]) -> str:
    """Names the rows of text that all cells of a model and task share."""
    names = ("window", "limit", "split_seed", "eval_rows", "test_share", "test_rows", "general")
    return key("material", 1, row.model, row.task, [found[name] for name in names])
