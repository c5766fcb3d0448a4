"""Where a scale of a layer's inputs can hide: in the norm or in the linear layer that makes those inputs.

Scaling the columns of W by s asks for inputs divided by s: W x = (W·diag s)(x / s). The division is free when the layer that
makes x can do it:

    norm            x = norm(h)·w (+ b)        w ← w/s, b ← b/s        or 1 + w ← (1 + w)/s where the norm adds 1 (Gemma)
    linear layer    x_i = v_r(i)·(anything)    row r of its weight and bias ← /s_r
                    (value → output projection, through attention; up → down projection, through the gate)

With grouped-query attention several inputs come from one row r: they share a scale (`tie`). No architecture is named. What
made x is watched in a pass of the block, and every candidate is tried on random hidden states with a random s: it counts
when it takes back at least 99 % of what scaling the columns alone does to the block's output. A norm that something else
reads too, a fused projection or a GELU in between fail that test; the layer then keeps s itself (`IntWeight.input_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.compress.targets import matrix, set_matrix, sizes
from workbench.compress.walk import Block, _record, find_blocks

TOKENS = 24  # of the trial pass
LEFT = 0.01  # share of the effect that a fold may leave


@dataclass(frozen=True)
class Fold:
    """How the inputs of a group of layers can be divided by s.

    Args:
        kind: "norm", "offset norm" (it adds 1 to its weight), or "rows" of a linear layer.
        source: name of the norm or linear layer in the model.
        tie: int64 [in]: the row of the source that each input comes from; the identity for norms.
    """

    kind: str
    source: str
    tie: Tensor

    def reduce(self, scale: Tensor) -> Tensor:
        """s [in] per row of the source; equal entries stay what they are."""
        rows = torch.ones(int(self.tie.max()) + 1, dtype=scale.dtype, device=scale.device)
        return rows.index_copy(0, self.tie.to(scale.device), scale)

    @torch.no_grad()
    def divide(self, module: nn.Module, scale: Tensor) -> None:
        """Divide what the dense `module` puts out by `scale` [in]."""
        rows = self.reduce(scale)
        if self.kind == "rows":
            set_matrix(module, matrix(module) / rows.to(module.weight.dtype).unsqueeze(1))
        else:
            one = 1 if self.kind == "offset norm" else 0
            module.weight.copy_((module.weight.float() + one) / rows - one)
        if getattr(module, "bias", None) is not None:
            module.bias.div_(rows)


def find_folds(model: nn.Module, targets: dict[str, nn.Module]) -> dict[str, Fold]:
    """The fold of every group of layers that has one, by the group's first layer.

    Args:
        model: dense, in evaluation mode; it is the same afterwards.
        targets: name → layer, as `find_targets` gives them.
    """
    blocks = find_blocks(model, targets)
    embedding = model.get_input_embeddings().weight
    _record(model, blocks, targets, [torch.arange(TOKENS).remainder(len(embedding)).unsqueeze(0)])
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(1, TOKENS, embedding.shape[1], generator=chance).to(embedding.device, embedding.dtype)
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {}
    with torch.no_grad():
        for block in blocks:
            made = _makers(block, targets, noise)
            for number, names in enumerate(block.groups):
                group = [targets[name] for name in names]
                before = [name for earlier in block.groups[:number] for name in earlier]
                for fold in _candidates(block, made.get(names[0]), before, targets, sizes(group[0])[1], head):
                    source = model.get_submodule(fold.source)
                    if uses[id(source.weight)] == 1 and _works(block, group, source, fold, noise, chance):
                        found[names[0]] = fold
                        break
    return found


def _makers(block: Block, targets: dict[str, nn.Module], noise: Tensor) -> dict[str, str]:
    """First layer of each group → name of the module inside the block whose output is that very tensor."""
    inside = {module: f"{block.name}.{name}" for name, module in block.module.named_modules() if name}
    outputs: list[tuple[Tensor, str]] = []
    made: dict[str, str] = {}

    def leave(module: nn.Module, args: tuple, out) -> None:
        if isinstance(out, Tensor):
            outputs.append((out, inside[module]))

    def enter(name: str, args: tuple) -> None:
        makers = [maker for out, maker in outputs if out is args[0]]
        if makers:
            made[name] = makers[-1]

    handles = [module.register_forward_hook(leave) for module in inside]
    for names in block.groups:
        handles.append(targets[names[0]].register_forward_pre_hook(lambda _, args, name=names[0]: enter(name, args)))
    try:
        block.run(noise)
    finally:
        for handle in handles:
            handle.remove()
    return made


def _candidates(
    block: Block, maker: str | None, before: list[str], targets: dict[str, nn.Module], width: int, head: int
) -> list[Fold]:
    """What could have made the inputs: the norm that put them out, then linear layers called before, latest first."""
    found, same = [], torch.arange(width)
    if maker is not None and maker not in targets:
        weight = getattr(block.module.get_submodule(maker.removeprefix(block.name + ".")), "weight", None)
        if weight is not None and weight.shape == (width,):
            found += [Fold("norm", maker, same), Fold("offset norm", maker, same)]
    for name in reversed(before):
        out = sizes(targets[name])[0]
        if out == width:
            found.append(Fold("rows", name, same))
        elif out < width and width % out == 0 and out % head == 0:
            tie = torch.arange(out).view(-1, head).repeat_interleave(width // out, 0).flatten()
            found.append(Fold("rows", name, tie))
    return found


def _works(block: Block, group: list[nn.Module], source: nn.Module, fold: Fold, noise: Tensor, chance) -> bool:
    """Whether dividing at the source undoes a scaling of the group's columns."""
    rows = torch.exp(0.5 * torch.randn(int(fold.tie.max()) + 1, generator=chance)).to(noise)
    scale = rows[fold.tie.to(rows.device)]
    changed = [parameter for module in (*group, source) for parameter in module.parameters(recurse=False)]
    kept = [parameter.clone() for parameter in changed]
    plain = block.run(noise)
    try:
        for module in group:
            set_matrix(module, matrix(module) * scale)
        moved = block.run(noise)
        fold.divide(source, scale)
        back = block.run(noise)
    finally:
        for parameter, value in zip(changed, kept, strict=True):
            parameter.copy_(value)
    effect = float((moved - plain).norm())
    return effect > 0 and float((back - plain).norm()) <= LEFT * effect
