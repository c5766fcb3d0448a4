"""The training loop: `transformers.Trainer` with a token-weighted evaluation, and one callback that watches it.

Departures from the stock Trainer: the evaluation loss is the mean over tokens (not over batches) and keeps no logits;
checkpoints hold safetensors weights and no pickled arguments; operations are not counted (that walks the whole model at
every step). Everything else (accumulation, clipping, autocast, optimizer, schedule, checkpoints, resume) is the Trainer's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from workbench.errors import JobError
from workbench.progress import Progress
from workbench.training.batches import Order, collator
from workbench.training.config import FinetuneConfig
from workbench.training.extras import own_optimizer
from workbench.training.folder import disk_errors
from workbench.training.save import save_weights
from workbench.training.schedules import wsd_schedule

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from workbench.training.prepare import Prepared

Log = Callable[..., None]


class Loop(Trainer):
    """A `Trainer` for rows made by `workbench.data.encode`."""

    classify = False
    wsd = False

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """WSD is ours, falling over the last tenth of the steps; every other schedule is the Trainer's."""
        if self.lr_scheduler is not None or not self.wsd:
            return super().create_scheduler(num_training_steps, optimizer)
        warm, decay = self.args.get_warmup_steps(num_training_steps), max(1, round(0.1 * num_training_steps))
        stable = max(0, num_training_steps - warm - decay)
        self.lr_scheduler = wsd_schedule(
            optimizer or self.optimizer, warmup_steps=warm, stable_steps=stable, decay_steps=decay
        )
        return self.lr_scheduler

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss in nats per target (token or row), and accuracy when classifying, over the evaluation rows."""
        model, device = self.model_wrapped, self.args.device
        model.eval()
        total = torch.zeros(3, dtype=torch.float64, device=device)  # loss, targets, right answers
        with torch.no_grad():
            for batch in self.get_eval_dataloader(eval_dataset):
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                output = model(**batch)
                targets = batch["labels"].ne(-100).sum()
                right = (
                    (output.logits.argmax(-1) == batch["labels"]).sum() if self.classify else torch.zeros_like(targets)
                )
                total += torch.stack([output.loss.double() * targets, targets.double(), right.double()])
        loss, targets, right = self.accelerator.reduce(total, "sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": loss / targets}
        if self.classify:
            metrics[f"{metric_key_prefix}_accuracy"] = right / targets
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Not counted."""
        return 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights and configuration into `output_dir`."""
        if self.args.should_save:
            save_weights(self.accelerator.unwrap_model(self.model), Path(output_dir or self.args.output_dir))


class Watch(TrainerCallback):
    """Passes on metrics and progress, marks the best evaluation, stops early, on request, or when numbers break.

    Args:
        config: the settings.
        progress: told after every step.
        should_stop: asked after every step; True saves a checkpoint and ends the loop.
        log: called with `step=…, loss=…` or `step=…, eval_loss=…`.
    """

    def __init__(
        self, config: FinetuneConfig, progress: Progress, should_stop: Callable[[], bool], log: Log | None
    ) -> None:
        self.config, self.progress, self.should_stop, self.log = config, progress, should_stop, log
        self.stopped = self.early = False
        self.step_seconds: list[float] = []
        self.text = "first evaluation and first step"

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict, **_: Any
    ) -> None:
        """Refuse broken numbers, pass on good ones."""
        if "loss" not in logs and "eval_loss" not in logs:
            return
        row = {name: float(value) for name, value in logs.items() if name != "epoch"}
        broken = next((name for name, value in row.items() if not math.isfinite(value)), None)
        if broken is not None:
            what = {"loss": "The loss", "eval_loss": "The evaluation loss", "grad_norm": "The gradient"}.get(
                broken, broken
            )
            kept = "the last good checkpoint is kept" if state.global_step > 1 else "nothing was learned yet"
            raise JobError(
                f"{what} became {row[broken]} at step {state.global_step} (learning rate {args.learning_rate:g}); {kept}. "
                f"Use a smaller learning rate, such as {args.learning_rate / 10:g}, or precision fp32."
            )
        if self.log is not None:
            self.log(step=state.global_step, **row)
        if "loss" in row:
            self.text = f"step {state.global_step} of {state.max_steps}, loss {row['loss']:.3f}"
        else:
            self.text = f"step {state.global_step} of {state.max_steps}, evaluation loss {row['eval_loss']:.3f}"
        self.progress(state.global_step, state.max_steps, self.text)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save a better one; stop when there was none for `early_stopping` evaluations."""
        losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row and row["step"] > 0]
        if not losses:
            return  # before the first step
        best = losses.index(min(losses))
        if best == len(losses) - 1:
            control.should_save = True
        elif self.config.early_stopping and len(losses) - 1 - best >= self.config.early_stopping:
            self.early = True
            control.should_save = control.should_training_stop = True

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Say what the wait before the first step is for."""
        self.progress(state.global_step, state.max_steps, self.text)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock of one update."""
        self.began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop on request, after saving this step."""
        self.step_seconds.append(time.perf_counter() - self.began)
        if state.global_step < state.max_steps and self.should_stop():
            self.stopped = True
            control.should_save = control.should_training_stop = True


def arguments(prepared: Prepared, output: Path, precision: str, resumed: bool) -> TrainingArguments:
    """The Trainer's settings: log every step, no bars, no workers, no reports to anyone."""
    config, cuda = prepared.config, torch.cuda.is_available()
    evaluates = bool(prepared.evaluation)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=prepared.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup", "wsd": "constant_with_warmup"}.get(
            config.schedule, config.schedule
        ),
        warmup_steps=min(config.steps - 1, round(config.warmup * config.steps)),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        bf16=precision == "bf16",
        use_cpu=not cuda,
        seed=config.seed,
        train_sampling_strategy="sequential",  # `Order` shuffles
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        eval_strategy="steps" if evaluates else "no",
        eval_steps=config.eval_every if evaluates else None,
        eval_on_start=evaluates and not resumed,
        metric_for_best_model="eval_loss" if evaluates else None,
        greater_is_better=False if evaluates else None,
        save_strategy="steps",
        save_steps=config.save_every or config.eval_every,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


def build(
    prepared: Prepared, model: torch.nn.Module, args: TrainingArguments, callbacks: list[TrainerCallback]
) -> Loop:
    """The loop over `prepared`'s rows, silent but for its callbacks."""
    config = prepared.config
    length = config.steps * config.batch_size * config.accumulation * max(1, args.world_size)
    loop = Loop(
        model=model,
        args=args,
        data_collator=collator(prepared.tokenizer.pad_token_id),
        train_dataset=Order(prepared.train, length, config.seed),
        eval_dataset=prepared.evaluation or None,
        callbacks=callbacks,
        optimizers=(own_optimizer(prepared.method, model, args), None),
    )
    loop.remove_callback(PrinterCallback)
    loop.remove_callback(ProgressCallback)
    loop.wsd = config.schedule == "wsd"
    if prepared.task == "sequence-classification":
        loop.classify = True
        loop.loss_is_scaled_for_ga = False  # the classification loss is a mean over the rows of one forward pass
    return loop


def train(loop: Loop, resume: Path | None, directory: Path) -> None:
    """Run the loop to its end, to a stop, or to an error that says what to do.

    Raises:
        JobError: broken numbers, a full disk, no memory.
    """
    from workbench.training.attach import quiet

    try:
        with disk_errors(directory), quiet():
            loop.train(resume_from_checkpoint=str(resume) if resume else None)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise JobError(
            "Out of memory; use a smaller batch_size with more accumulation, a smaller window, or gradient_checkpointing. "
            "The last whole checkpoint is kept."
        ) from error
