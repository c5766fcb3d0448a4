"""The wrapped input embedding of DePT: prompt rows, a change by position, and the place of every token of a pass."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from workbench.errors import UserError

if TYPE_CHECKING:
    from workbench.adapters.dept import DeptConfig, DeptModel

WHY_NOT = (
    "DePT cannot be merged: it lengthens the input and changes it by position, which no weight does. "
    "Keep it beside the model."
)


class DeptLayer(nn.Module, BaseTunerLayer):
    """The input embedding with prompts and position-wise changes. Input ids (batch, t), output (batch, t, d)."""

    adapter_layer_names = ("dept_prompt", "dept_A", "dept_B")
    other_param_names = ("dept_plan",)

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        nn.Module.__init__(self)
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.num_embeddings, base_layer.embedding_dim
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        self.dept_plan: dict[str, DeptConfig] = {}
        self.merged_adapters = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.positions: torch.Tensor | None = None  # (batch, t): below 0 in the prompt; set for the length of one pass
        self.state = ""  # what is under way: "", "forward" or "generate"
        self.prompted = False  # whether this pass has the prompt in front

    def update_layer(self, adapter_name: str, config: DeptConfig) -> None:
        """Add an adapter."""
        m, r, d, weight = config.num_virtual_tokens, config.r, self.out_features, self.base_layer.weight
        self.dept_plan[adapter_name] = config
        with torch.no_grad():
            if m:
                ids = torch.randint(self.in_features, (m,), device=weight.device)
                if config.prompt_init == "ids":
                    ids = torch.tensor(
                        [config.init_ids[i % len(config.init_ids)] for i in range(m)], device=weight.device
                    )
                rows = (
                    torch.randn(m, d, device=weight.device) if config.prompt_init == "random" else weight[ids].float()
                )
                self.dept_prompt[adapter_name] = nn.Parameter(rows / config.learning_rate_ratio)
            if r:
                a = torch.empty(config.max_length, r, device=weight.device)
                self.dept_A[adapter_name] = nn.Parameter(nn.init.kaiming_uniform_(a, a=5**0.5))
                self.dept_B[adapter_name] = nn.Parameter(torch.zeros(r, d, device=weight.device))
        self.set_adapter(self.active_adapters)

    def active(self) -> list[str]:
        """Adapters that act now."""
        return [] if self.disable_adapters else [name for name in self.active_adapters if name in self.dept_plan]

    def prompt_length(self) -> int:
        """Prompt tokens of the active adapters together."""
        return sum(self.dept_plan[name].num_virtual_tokens for name in self.active())

    def prompt(self) -> torch.Tensor:
        """P of the active adapters, one after the other (m, d)."""
        parts = [
            self.dept_prompt[n] * self.dept_plan[n].learning_rate_ratio for n in self.active() if n in self.dept_prompt
        ]
        return torch.cat(parts) if parts else self.base_layer.weight.new_zeros(0, self.out_features)

    def change(self, positions: torch.Tensor) -> torch.Tensor:
        """Σ (alpha/√r) (A B)_t for positions (…), zero outside 0 … s − 1; (…, d)."""
        out = torch.zeros(*positions.shape, self.out_features, device=positions.device)
        for name in self.active():
            if name in self.dept_A:
                plan, a = self.dept_plan[name], self.dept_A[name].float()
                inside = (positions >= 0) & (positions < len(a))
                rows = a[positions.clamp(0, len(a) - 1)] * inside.unsqueeze(-1)
                out = out + rows @ self.dept_B[name].float() * (plan.alpha / plan.r**0.5)
        return out

    def changed(self, embeddings: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Embeddings with prompt rows where the position is negative, and the change elsewhere."""
        out = embeddings + self.change(positions).to(embeddings.dtype)
        m = self.prompt_length()
        if m:
            prompt = self.prompt()[(positions + m).clamp(0, m - 1)].to(embeddings.dtype)
            out = torch.where((positions < 0).unsqueeze(-1), prompt, out)
        return out

    def forward(self, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Embeddings of ids, changed while `positions` are set."""
        out = self.base_layer(ids, *args, **kwargs)
        return out if self.positions is None or self.disable_adapters else self.changed(out, self.positions)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: there is no weight to merge into."""
        raise UserError(WHY_NOT)

    def unmerge(self) -> None:
        """Nothing was ever merged."""
        warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)


def find_embedding(model: nn.Module) -> str:
    """Name of the embedding of the text's tokens (the encoder's, where there are two).

    Raises:
        UserError: for a model that reads no tokens.
    """
    owner = model
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        owner = model.get_encoder()
    found = owner.get_input_embeddings() if hasattr(owner, "get_input_embeddings") else None
    while isinstance(found, BaseTunerLayer):
        found = found.base_layer
    if not isinstance(found, nn.Embedding):
        raise UserError(f"DePT needs a model that reads tokens; {type(model).__name__} has no token embedding.")
    prefix = next((f"{name}." for name, module in model.named_modules() if module is owner and name), "")
    names = [name for name, module in owner.named_modules() if module is found]
    return prefix + names[0].removesuffix(".base_layer")


def filler(config: Any) -> int:
    """An id for the places of the prompt: any but the padding's, which some models look for."""
    pad = getattr(config, "pad_token_id", None)
    return 1 if pad == 0 else 0


def enter(tuner: DeptModel, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Before a pass of the whole model: make room for the prompt."""
    layer = tuner.layer
    kwargs = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
    ids, embeddings = kwargs.pop("input_ids", None), kwargs.get("inputs_embeds")
    if layer.state == "generate" or not layer.active() or (ids is None and embeddings is None):
        return None
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None or module.config.is_encoder_decoder else int(cache.get_seq_length())
    layer.state = "forward"
    return (), tuner._extended(ids, kwargs, past)


def leave(tuner: DeptModel, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> Any:
    """After a pass: keep the logits of the text's tokens only."""
    layer = tuner.layer
    if layer.state != "forward":
        return out
    layer.state, layer.positions = "", None
    logits, source = getattr(out, "logits", None), kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    m = layer.prompt_length()
    whole = logits is not None and logits.dim() == 3 and source is not None and logits.shape[1] == source.shape[1]
    if whole and m and not module.config.is_encoder_decoder and layer.prompted:
        out.logits = logits[:, m:]
    return out


def place(tuner: DeptModel, module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Positions of the tokens of this call: real tokens before each one, minus the prompt's."""
    layer, ids = tuner.layer, kwargs.get("input_ids", args[0] if args else None)
    layer.positions = None
    if ids is None or not layer.state or not layer.active():
        return
    m, mask = layer.prompt_length(), kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None or not hasattr(cache, "get_seq_length") else int(cache.get_seq_length())
    if mask is not None and mask.dim() == 2 and mask.shape[1] >= past + ids.shape[1]:
        positions = mask.long().cumsum(1)[:, past : past + ids.shape[1]] - 1 - m
    else:
        positions = torch.arange(past, past + ids.shape[1], device=ids.device).expand(ids.shape) - m
    prefill = any(layer.dept_plan[name].generation == "prefill" for name in layer.active())
    layer.positions = torch.full_like(positions, 1 << 30) if prefill and past else positions
