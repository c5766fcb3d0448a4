"""Everything that can go wrong before a weight is read: settings, method, model name, data, sizes. All problems at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.errors import UserError
from workbench.training.config import FinetuneConfig, raise_all
from workbench.training.methods import Method, find_method

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from workbench.models import ModelRef

T = TypeVar("T")
ON_PACKED = ("LORA", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")
QUANTIZERS = (
    "nf4",
    "fp4",
    "int8-mixed",
    *(f"{name}-{bits}" for name in ("rtn", "gptq", "awq") for bits in (8, 4, 3, 2)),
)


@dataclass(frozen=True)
class Prepared:
    """Checked settings and encoded rows; nothing of the model but its configuration and tokenizer.

    Attributes:
        task: "causal-lm" or "sequence-classification".
        labels: class names in the order of their ids; empty for causal models.
        train: encoded training rows.
        evaluation: encoded evaluation rows, at most `eval_rows`; empty when the share is 0.
        trainable: parameters that will train; total: all of them, adapter included.
        file_bytes: size of what the run will save.
        notes: what the user should know but need not change.
    """

    config: FinetuneConfig
    method: Method
    task: str
    ref: ModelRef
    model_config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    train: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    learning_rate: float
    trainable: int
    total: int
    file_bytes: int
    notes: tuple[str, ...]

    @property
    def num_labels(self) -> int | None:
        """Classes, or None for causal models."""
        return len(self.labels) or None


def prepare(config: FinetuneConfig) -> Prepared:
    """Check settings, method, model and data against each other and encode the rows.

    Raises:
        UserError: one error that names every problem found.
    """
    from workbench import data, models

    problems = config.problems()
    bad = {text.split()[0] for text in problems}

    def attempt(step: Callable[[], T], *needs: Any) -> T | None:
        """The step's answer; None (and a problem noted) when it refuses or something it needs is missing."""
        if any(need is None for need in needs):
            return None
        try:
            return step()
        except UserError as error:
            problems.append(str(error))
            return None

    method = attempt(lambda: find_method(config.method)) if "method" not in bad else None
    if method is not None:
        attempt(lambda: method.check(config.method_args))
    ref = attempt(lambda: models.resolve(config.model)) if "model" not in bad else None
    usable = not bad & {"data", "kind", "limit"}
    examples = (
        attempt(lambda: data.load(config.data, kind=config.kind, columns=config.columns, limit=config.limit))
        if usable
        else None
    )
    model_config = attempt(lambda: models.load_config(config.model), ref)
    tokenizer = attempt(lambda: models.load_tokenizer(config.model), model_config)
    attempt(lambda: check_window(config.window, model_config), model_config)
    attempt(lambda: check_quantize(config, method, model_config), method, model_config)

    if bad & {"window", "batch_size", "accumulation", "evaluation", "test", "seed", "split_seed"}:
        examples = None
    parts = attempt(lambda: _split(config, examples), examples)
    train = attempt(lambda: _encode(config, parts["train"], tokenizer), parts, tokenizer)
    held_out = attempt(lambda: _encode(config, parts["eval"], tokenizer), parts, tokenizer, train)
    attempt(lambda: check_batch(config, train), train)

    labels = tuple(examples.labels) if examples is not None and examples.kind == "classification" else ()
    kind = examples.kind if examples is not None else config.kind
    task = "sequence-classification" if kind == "classification" else "causal-lm"
    sizes = attempt(lambda: _sizes(config, method, model_config, task, len(labels) or 2), method, model_config)
    raise_all(list(dict.fromkeys(problems)))

    from workbench.training.batches import spread

    return Prepared(
        config=config,
        method=method,
        task=task,
        ref=ref,
        model_config=model_config,
        tokenizer=tokenizer,
        labels=labels,
        train=list(train),
        evaluation=spread(held_out, config.eval_rows) if not bad & {"eval_rows"} else [],
        learning_rate=config.learning_rate or method.learning_rate,
        trainable=sizes[0],
        total=sizes[1],
        file_bytes=sizes[2],
        notes=(*examples.report.notes, train.sentence(config.window)),
    )


def check_window(window: int, model_config: PreTrainedConfig) -> None:
    """Refuse a window that the model's positions cannot hold."""
    most = getattr(model_config, "max_position_embeddings", None) or getattr(model_config, "n_positions", None)
    if most and isinstance(window, int) and window > most:
        raise UserError(f"window is {window}, but the model reads {most} tokens at most; use {most} or less.")


def check_batch(config: FinetuneConfig, train: list) -> None:
    """Refuse an update that would need more rows than there are."""
    if config.batch_size > len(train):
        raise UserError(
            f"batch_size is {config.batch_size}, but the training part of {config.data} gives {len(train)} rows of "
            f"{config.window} tokens; use a batch of {len(train)} or less, a smaller window, or more data."
        )


def check_quantize(config: FinetuneConfig, method: Method, model_config: PreTrainedConfig) -> None:
    """Refuse an unknown quantizer, one too many, and methods that have no way of training on packed weights."""
    packed = getattr(model_config, "quantization_config", None) is not None
    if config.quantize is None and not packed:
        return
    if config.quantize is not None and config.quantize not in QUANTIZERS:
        near = difflib.get_close_matches(config.quantize, QUANTIZERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {', '.join(QUANTIZERS)}."
        raise UserError(f"quantize is {config.quantize!r}; {hint}")
    if config.quantize is not None and packed:
        raise UserError(f"{config.model} is quantized already; leave out quantize, or start from its dense weights.")
    if method.peft_type not in ON_PACKED or method.name == "dora":
        raise UserError(
            f"{method.name} needs dense weights, and this model is quantized; use lora, rslora, prompt, prefix or p-tuning, "
            "or train on the dense model."
        )


def _split(config: FinetuneConfig, examples: Any) -> dict[str, Any]:
    from workbench import data

    seed = config.seed if config.split_seed is None else config.split_seed
    return data.split(examples, evaluation=config.evaluation, test=config.test, seed=seed)


def _encode(config: FinetuneConfig, part: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    from workbench import data

    return data.encode(part, tokenizer, window=config.window, mask_prompt=config.mask_prompt)


def _sizes(
    config: FinetuneConfig, method: Method, model_config: PreTrainedConfig, task: str, classes: int
) -> tuple[int, int, int]:
    """(trainable, total, bytes of the file) from the model's shapes; methods that need numbers are sized without them."""
    from workbench.models.loading import WRITES
    from workbench.training import attach

    names = getattr(model_config, "architectures", None) or []
    if task == "causal-lm" and names and not any(WRITES.search(name) for name in names):
        raise UserError(
            f"{config.model} is a {names[0]}, which cannot continue a text; give labelled data (kind classification), or "
            "choose a language model."
        )
    model = attach.skeleton(model_config, task, classes if task == "sequence-classification" else None)
    dense = attach.counts(model)[1]
    try:
        model = attach.apply_method(method, config.method_args, model, config.steps)
    except (NotImplementedError, RuntimeError):
        return 0, dense, 0  # it computes from the weights; the dry run knows more
    trainable, total = attach.counts(model)
    return trainable, total, 4 * (total if method.peft_type is None else trainable)
