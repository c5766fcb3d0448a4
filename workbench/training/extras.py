"""Methods whose training holds more than their saved weights: what they need at every step and in every checkpoint.

AdaLoRA moves its rank budget after each update, from running averages of how much every rank matters (Zhang et al. 2023,
arXiv 2303.10512, §3.2). P-tuning trains a network that makes the prompt, and peft saves the prompt only. Sparse deltas
(Ansell et al. 2024, arXiv 2401.16405) train with an optimizer of their own and move while they do. These extras go into
the checkpoint, so that a resumed run takes the very steps that an uninterrupted one would have taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from workbench.training.methods import Method

FILE = "extras.pt"
_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Extras(TrainerCallback):
    """Saves `collect(model)` beside each checkpoint, and gives it back at the start of a resumed run.

    Args:
        resume: the checkpoint that the run goes on from, None for a fresh one.
    """

    def __init__(self, resume: Path | None) -> None:
        self.resume = resume

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Bring back what was saved."""
        if self.resume is not None:
            self.restore(model, torch.load(self.resume / FILE, weights_only=True, map_location=args.device))

    def on_save(self, args: TrainingArguments, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Save it."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
        torch.save(self.collect(model), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def collect(self, model: Any) -> dict[str, Any]:
        """The tensors to keep."""
        raise NotImplementedError

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Put them back."""
        raise NotImplementedError


class AdaLora(Extras):
    """Moves the rank budget; keeps the running averages and, once they are fixed, the ranks."""

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """After the update and before gradients are cleared, as peft asks. Steps count from 0 there."""
        model.base_model.update_and_allocate(state.global_step)

    def collect(self, model: Any) -> dict[str, Any]:
        """Averages and ranks."""
        allocator = model.base_model.rankallocator
        ranks = model.peft_config[model.active_adapter].rank_pattern
        return {**{name: getattr(allocator, name) for name in _AVERAGES}, "ranks": dict(ranks or {})}

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Averages and ranks."""
        for name in _AVERAGES:
            setattr(model.base_model.rankallocator, name, saved[name])
        model.peft_config[model.active_adapter].rank_pattern = saved["ranks"]


class PromptNetwork(Extras):
    """Keeps the network behind the prompt."""

    def collect(self, model: Any) -> dict[str, Any]:
        """Its tensors."""
        return model.prompt_encoder[model.active_adapter].state_dict()

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Its tensors."""
        model.prompt_encoder[model.active_adapter].load_state_dict(saved)


class SparseDeltas(Extras):
    """Moves sparse deltas after each update; keeps the step and what the present phase has collected."""

    def on_train_begin(
        self, args: TrainingArguments, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        """Start to watch gradients, where the checkpoint left off."""
        from workbench.adapters._sparse_delta_select import Reselector

        self.selector = Reselector(
            model, optimizer, args.max_steps, model.active_adapter, args.gradient_accumulation_steps
        )
        super().on_train_begin(args, state, control, model=model)

    def on_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Count the update; drop and grow where it is due."""
        self.selector.after_step()

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Stop watching."""
        self.selector.close()

    def collect(self, model: Any) -> dict[str, Any]:
        """Step, log and candidates."""
        return self.selector.state_dict()

    def restore(self, model: Any, saved: dict[str, Any]) -> None:
        """Step, log and candidates."""
        self.selector.load_state_dict(saved)


_FOR: dict[str | None, type[Extras]] = {"ADALORA": AdaLora, "P_TUNING": PromptNetwork, "SPIEL": SparseDeltas}


def own_optimizer(method: Method, model: Any, args: TrainingArguments) -> torch.optim.Optimizer | None:
    """The optimizer of a method that does not train with AdamW; None for all others.

    Args:
        method: which.
        model: ready to train.
        args: learning rate and weight decay.
    """
    if method.peft_type != "SPIEL":
        return None
    from workbench.adapters._sparse_delta_select import spiel_optimizer

    return spiel_optimizer(model, args.learning_rate, args.weight_decay, model.active_adapter)


def extras(method: Method, resume: Path | None) -> list[TrainerCallback]:
    """The callbacks a method needs."""
    return [_FOR[method.peft_type](resume)] if method.peft_type in _FOR else []


def extra_files(method: Method) -> tuple[str, ...]:
    """Files without which a checkpoint of the method is not whole."""
    return (FILE,) if method.peft_type in _FOR else ()
