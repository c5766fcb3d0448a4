"""DePT: a short soft prompt, and a low-rank change of the input embeddings that pays for the rest of a long one.

    input of the model:  [P ; E'],    E'_t = E_t + (alpha/√r) (A B)_t  for t < s

with P (m, d), A (s, r), B (r, d) trained and E the frozen embeddings (T, d). Vanilla prompt tuning spends l·d numbers on
l prompt tokens that every layer then attends to; m < l tokens and a rank from m·d + r (s + d) ≤ l·d cost the same numbers
and a shorter sequence. The change is indexed by position, not by token. B = 0 at the start; P starts from vocabulary rows.
P wants a learning rate a hundred times that of A and B: `learning_rate_ratio` stores P / ratio, so that one rate under an
Adam-like optimizer moves P that much faster; `param_groups` makes two groups for those who set both.

Source: Shi and Lipani, ICLR 2024, arXiv 2309.05173, §2.2; alpha/√r, starts, masks and labels: ZhengxiangShi/DePT.
Departures: t counts real tokens from the first one, so padding on the left changes nothing (the reference counts
columns); while generating, new tokens get their change as they did in training (the reference changes the prompt's text
only; `generation="prefill"` does as it does). Logits come back for the text's tokens only, not for the prompt's.
How: m placeholder ids are put in front of the text's and the wrapped embedding fills them in, so that models that look at
the ids (padding, classification) work unchanged. An encoder-decoder is changed in its encoder only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft.config import PeftConfig
from peft.utils import PeftType
from torch import nn

from workbench.adapters._dept_layer import WHY_NOT, DeptLayer, enter, filler, find_embedding, leave, place
from workbench.adapters._linear import DeltaTuner
from workbench.adapters._register import add_peft_type
from workbench.adapters._sites import settle_targets
from workbench.errors import UserError, choose

METHOD = {
    "name": "dept", "prefix": "dept_", "config": "DeptConfig", "model": "DeptModel", "layer": "DeptLayer",
    "paper": "dept", "family": "prompts", "tiny": {"num_virtual_tokens": 3, "r": 4, "max_length": 16},
    "other": {"num_virtual_tokens": 2, "r": 3, "max_length": 16}, "starts": None, "merges": False, "mixes": False,
    "kinds": ["llama", "gpt2", "bert", "t5"], "places": True,
    "help": "A short trained prompt plus a low-rank change of the input embeddings: prompt tuning at a shorter length.",
}  # fmt: skip
add_peft_type("DEPT")


@dataclass
class DeptConfig(PeftConfig):
    """Settings of DePT. It wraps the input embedding, wherever the model has it."""

    num_virtual_tokens: int = field(default=40, metadata={"help": "Length m of the prompt. Every layer attends to it."})
    r: int = field(default=45, metadata={"help": "Rank of the change of the embeddings; 0 is plain prompt tuning."})
    max_length: int = field(
        default=256, metadata={"help": "Positions s that get a change; later tokens get none. Costs r numbers each."}
    )
    alpha: float = field(default=8.0, metadata={"help": "The change is scaled by alpha / √r. Paper: 8."})
    prompt_init: str = field(
        default="vocab",
        metadata={"help": "vocab: random vocabulary rows. ids: rows of init_ids. random: normal numbers."},
    )
    init_ids: list[int] | None = field(
        default=None,
        metadata={"help": "Token ids of an instruction, repeated to the prompt's length (prompt_init=ids)."},
    )
    learning_rate_ratio: float = field(
        default=100.0, metadata={"help": "How much faster the prompt moves than A and B under Adam. Paper: 60 to 800."}
    )
    generation: str = field(
        default="all",
        metadata={"help": "all: generated tokens get their change too. prefill: the reference, they do not."},
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules trained in full and saved."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Found by the method; recorded, not chosen."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType("DEPT")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        for name, least in (("num_virtual_tokens", 0), ("r", 0), ("max_length", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(f"{name}={value!r} is not possible for DePT; use a whole number of at least {least}.")
        if self.num_virtual_tokens == self.r == 0:
            raise UserError("num_virtual_tokens=0 and r=0 leave nothing to train; set one of them.")
        for name in ("alpha", "learning_rate_ratio"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)!r} is not possible for DePT; use a number above 0.")
        choose("prompt_init", self.prompt_init, ("vocab", "ids", "random"))
        choose("generation setting", self.generation, ("all", "prefill"))
        if (self.prompt_init == "ids") != bool(self.init_ids):
            raise UserError("init_ids and prompt_init='ids' belong together; give both or neither.")

    def trainable_per_module(self, vocabulary: int, d: int) -> int:
        """Trained numbers: m·d + r (s + d)."""
        return self.num_virtual_tokens * d + self.r * (self.max_length + d)


def equal_budget(l: int, m: int, d: int, s: int) -> int:  # noqa: E741 (the paper's letters)
    """The largest rank at which DePT with m prompt tokens trains no more than a prompt of l tokens.

    Args:
        l: length of the plain prompt.
        m: length of DePT's prompt.
        d: size of an embedding.
        s: positions that get a change.

    Raises:
        UserError: when nothing is left for the low-rank pair.
    """
    if m >= l:
        raise UserError(f"m={m} prompt tokens are not fewer than l={l}, so no numbers are left for the pair; lower m.")
    r = (l - m) * d // (s + d)
    if r < 1:
        raise UserError(f"{(l - m) * d} numbers are fewer than rank one costs ({s + d}); lower m or s, or raise l.")
    return r


def param_groups(model: nn.Module, lr_prompt: float, lr_low_rank: float) -> list[dict[str, Any]]:
    """Two optimizer groups, for the prompt and for the low-rank pair, at the rates of the paper.

    Args:
        model: with DePT on it.
        lr_prompt: rate of P itself; divided here by `learning_rate_ratio`, because P / ratio is what is stored.
        lr_low_rank: rate of A and B.
    """
    layer = next(module for module in model.modules() if isinstance(module, DeptLayer))
    name = layer.active_adapters[0]
    ratio = layer.dept_plan[name].learning_rate_ratio
    pair = [held[name] for held in (layer.dept_A, layer.dept_B) if name in held]
    groups = [{"params": [layer.dept_prompt[name]] if name in layer.dept_prompt else [], "lr": lr_prompt / ratio}]
    return [group for group in [*groups, {"params": pair, "lr": lr_low_rank}] if group["params"]]


class DeptModel(DeltaTuner):
    """The tuner behind `get_peft_model(model, DeptConfig(...))`."""

    prefix = "dept_"
    tuner_layer_cls = DeptLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, config: DeptConfig, model_config: dict) -> DeptConfig:
        settle_targets(self.model, config, {find_embedding(self.model)})
        return config

    def _create_and_replace(
        self, config: DeptConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        limit = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        if limit is not None and config.num_virtual_tokens >= limit:
            raise UserError(
                f"num_virtual_tokens={config.num_virtual_tokens} leaves no room in a model of {limit} positions; lower it."
            )
        if not isinstance(target, DeptLayer):
            layer = DeptLayer(target, adapter_name)
            layer.set_adapter(self.active_adapters)
            self._replace_module(parent, target_name, layer, target)
            target = layer
        target.update_layer(adapter_name, config)

    @property
    def layer(self) -> DeptLayer:
        """The wrapped embedding."""
        return next(module for module in self.model.modules() if isinstance(module, DeptLayer))

    def _owner(self) -> nn.Module:
        """The module that is called with ids and mask together: the encoder, or the model below its head."""
        if getattr(self.model.config, "is_encoder_decoder", False):
            return self.model.get_encoder()
        return getattr(self.model, "base_model", self.model)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """peft's injection; the first adapter also puts the hooks on the model (some peft models call it directly)."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if "_hooks" not in self.__dict__:
            self.__dict__["_hooks"] = [
                model.register_forward_pre_hook(partial(enter, self), with_kwargs=True),
                model.register_forward_hook(partial(leave, self), with_kwargs=True, always_call=True),
                self._owner().register_forward_pre_hook(partial(place, self), with_kwargs=True),
            ]

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for hook in self.__dict__.pop("_hooks", []):
            hook.remove()
        return model

    def _check_tied_modules(self, model: nn.Module, config: DeptConfig) -> None:
        """Nothing to tie: the embedding keeps its weight, and what is added concerns the input only."""

    def _extended(self, ids: torch.Tensor | None, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        """Arguments with room for the prompt: ids, mask, labels and the like."""
        layer, m = self.layer, self.layer.prompt_length()
        out, embeddings = dict(kwargs), kwargs.get("inputs_embeds")
        source = ids if embeddings is None else embeddings
        count, (batch, length) = 0 if past else m, source.shape[:2]
        layer.prompted = count > 0
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and past + count + length > limit and not self.model.config.is_encoder_decoder:
            raise UserError(
                f"{length} tokens and a prompt of {m} need {past + count + length} positions, the model has {limit}; "
                "shorten the text or the prompt."
            )
        mask = out.get("attention_mask")
        if mask is not None and mask.dim() != 2:
            raise UserError("DePT needs a mask of one number per token (batch, length), or none.")
        if mask is not None:
            out["attention_mask"] = mask = torch.cat([mask.new_ones(batch, m), mask], 1)
        if out.get("position_ids") is not None:  # counted anew, with the prompt and without the padding
            seen = torch.ones(1, past + count + length, device=source.device) if mask is None else mask
            out["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0).long()[:, past : past + count + length]
        if embeddings is not None:
            seen = torch.ones(batch, past + count + length, device=source.device) if mask is None else mask
            positions = seen.cumsum(1).long()[:, past : past + count + length] - 1 - m
            room = source.new_zeros(batch, count, source.shape[-1])
            out["inputs_embeds"] = layer.changed(torch.cat([room, source], 1), positions)
        else:
            out["input_ids"] = torch.cat([ids.new_full((batch, count), filler(self.model.config)), ids], 1)
        if out.get("token_type_ids") is not None:
            out["token_type_ids"] = torch.cat([out["token_type_ids"].new_zeros(batch, count), out["token_type_ids"]], 1)
        labels = out.get("labels")
        same = labels is not None and labels.shape == (batch, length)
        if same and not self.model.config.is_encoder_decoder and labels.dim() == 2:
            out["labels"] = torch.cat([labels.new_full((batch, count), -100), labels], 1)
        return out

    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The model's generation with the prompt in front; the ids come back without it."""
        layer = self.layer
        ids = kwargs.pop("input_ids", inputs)
        if not layer.active():
            return self.model.generate(**({} if ids is None else {"input_ids": ids}), **kwargs)
        m, encoder = layer.prompt_length(), self.model.config.is_encoder_decoder
        if ids is not None and kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = torch.ones_like(ids)
        if "max_length" in kwargs and ids is not None and not encoder:
            kwargs["max_length"] += m
        layer.state = "generate"
        try:
            out = self.model.generate(**self._extended(ids, kwargs, 0))
        finally:
            layer.state, layer.positions = "", None
        if encoder or ids is None:
            return out
        if isinstance(out, torch.Tensor):
            return out[:, m:]
        out.sequences = out.sequences[:, m:]
        return out

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "DePT cannot serve a batch with another adapter per row: prompts may differ in length. "
                "Run one batch per adapter."
            )
        yield

    def _check_merge_allowed(self) -> None:
        raise UserError(WHY_NOT)
