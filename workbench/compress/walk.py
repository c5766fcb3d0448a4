"""Walk a model block by block over calibration text, so that every layer is solved on inputs that already went through
the quantized layers before it.

Memory is one block's activations for one part of the text, plus the hidden states of all of it before and after the
block (two streams). No architecture is named: the blocks are the longest list of equal modules that holds targets, and
what each block is called with (masks, position embeddings) is recorded from one real forward pass.

Layers that are called one after the other with the *same tensor* (query/key/value, gate/up) form a group and share one
Hessian. Two roads give the same numbers:

* the text fits the memory budget: one forward pass per block; a hook on each group's first layer solves the group
  in the middle of the pass, before its product is computed;
* else: one pass over the parts per group, cut short once the group's input is seen, and one for the block's output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench.compress.gptq import Hessian
from workbench.compress.targets import sizes
from workbench.errors import UserError
from workbench.progress import Progress, silent

Solve = Callable[[list[str], Hessian], None]
BUDGET = 1 << 30  # bytes of activations inside one block


class _Enough(Exception):
    """Raised by a hook once a forward pass has shown what was wanted."""


@dataclass
class Block:
    """One block: its name, module, groups of target layers in calling order, and its other arguments by window length."""

    name: str
    module: nn.Module
    groups: list[list[str]] = field(default_factory=list)
    arguments: dict[int, tuple[tuple, dict]] = field(default_factory=dict)

    def run(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, tokens, width] after the block."""
        args, kwargs = self.arguments[hidden.shape[1]]
        out = self.module(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


def find_blocks(model: nn.Module, targets: dict[str, nn.Module], method: str = "gptq") -> list[Block]:
    """The model's repeated blocks in order.

    Raises:
        UserError: when the model has no list of blocks with target layers inside.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f"{method} walks one stack of blocks; {type(model).__name__} has two: use method 'rtn' or 'nf4'."
        )
    lists = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1:
            inside = sum(target.startswith(name + ".") for target in targets)
            if inside:
                lists.append((inside, -name.count("."), name, module))
    if not lists:
        raise UserError(f"{type(model).__name__} has no list of blocks to walk through; use method 'rtn' or 'nf4'.")
    _, _, name, module = max(lists, key=lambda item: item[:2])
    return [Block(f"{name}.{i}", block) for i, block in enumerate(module)]


def part_tokens(model: nn.Module, targets: dict[str, nn.Module], budget: int = BUDGET) -> int:
    """Tokens whose activations inside one block fit the budget (about three widest tensors and a few hidden states)."""
    widest = max(max(sizes(module)) for module in targets.values())
    hidden = model.get_input_embeddings().weight.shape[1]
    return max(1, budget // ((3 * widest + 6 * hidden) * 4))


def check_tokens(targets: dict[str, nn.Module], windows: list[Tensor], method: str = "gptq") -> None:
    """Refuse calibration text with fewer tokens than the widest layer has inputs: its Hessian would be singular, and
    training on it would fit the text by heart.

    Raises:
        UserError: with the number of tokens needed.
    """
    check_windows(windows, method)
    have = sum(window.shape[1] for window in windows)
    name, need = max(((n, sizes(m)[1]) for n, m in targets.items()), key=lambda item: item[1])
    if have < need:
        raise UserError(
            f"the calibration text has {have} tokens, but {name} has {need} input features; "
            f"give at least {need} tokens, better {4 * need}."
        )


def check_windows(windows: list[Tensor], method: str) -> None:
    """Refuse calibration text that is missing or no token ids of shape (1, tokens).

    Raises:
        UserError: naming the method, or the shape.
    """
    if not windows:
        raise UserError(f"method '{method}' needs calibration text; pass windows of token ids, or use 'rtn' or 'nf4'.")
    for window in windows:
        if window.ndim != 2 or window.shape[0] != 1 or window.dtype.is_floating_point:
            raise UserError(f"calibration windows are token ids of shape (1, tokens), not {tuple(window.shape)}.")


def _record(model: nn.Module, blocks: list[Block], targets: dict[str, nn.Module], windows: list[Tensor]) -> None:
    """Fill in the blocks' arguments for every window length, and their groups, from one forward pass per length."""
    names = {id(module): name for name, module in targets.items()}
    seen: set[str] = set()
    last: list = [None, None]  # input tensor and group of the layer called last

    def on_block(block: Block, args: tuple, kwargs: dict) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        block.arguments[hidden.shape[1]] = (args[1:], kwargs)
        last[:] = [None, None]

    def on_layer(block: Block, layer: nn.Module, args: tuple) -> None:
        name = names[id(layer)]
        if name in seen:
            return
        seen.add(name)
        if args[0] is last[0]:
            last[1].append(name)
        else:
            last[:] = [args[0], [name]]
            block.groups.append(last[1])

    handles = []
    for block in blocks:
        handles.append(
            block.module.register_forward_pre_hook(
                lambda module, args, kwargs, block=block: on_block(block, args, kwargs), with_kwargs=True
            )
        )
        for module in block.module.modules():
            if id(module) in names:
                handles.append(
                    module.register_forward_pre_hook(lambda layer, args, block=block: on_layer(block, layer, args))
                )
    try:
        for length in sorted({window.shape[1] for window in windows}):
            window = next(window for window in windows if window.shape[1] == length)
            model.base_model(window.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _embed(model: nn.Module, first: Block, part: Tensor) -> Tensor:
    """Hidden states that enter the first block."""
    caught = []

    def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])
        raise _Enough

    handle = first.module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        model.base_model(part.to(model.device), use_cache=False)
    except _Enough:
        pass
    finally:
        handle.remove()
    return caught[0]


def _watch(block: Block, leader: nn.Module, parts: list[Tensor], hessian: Hessian) -> None:
    """Add the inputs of `leader` over all parts, stopping each pass there."""

    def hook(module: nn.Module, args: tuple) -> None:
        hessian.add(args[0])
        raise _Enough

    handle = leader.register_forward_pre_hook(hook)
    try:
        for hidden in parts:
            try:
                block.run(hidden)
            except _Enough:
                continue
    finally:
        handle.remove()


def _listen(
    block: Block, targets: dict[str, nn.Module], solve: Solve, parts: list[Tensor], equal: bool
) -> list[Tensor]:
    """One pass of all parts over an unchanging block, which collects every group's Hessian at once."""
    hessians = [Hessian(sizes(targets[names[0]])[1], equal) for names in block.groups]
    handles = [
        targets[names[0]].register_forward_pre_hook(lambda _, args, hessian=hessian: hessian.add(args[0]))
        for names, hessian in zip(block.groups, hessians, strict=True)
    ]
    try:
        parts = [block.run(hidden) for hidden in parts]
    finally:
        for handle in handles:
            handle.remove()
    for names, hessian in zip(block.groups, hessians, strict=True):
        solve(names, hessian)
    return parts


def _in_passing(block: Block, targets: dict[str, nn.Module], solve: Solve, hidden: Tensor, equal: bool) -> Tensor:
    """One pass over the block, solving each group when its first layer is reached."""
    handles = []

    def watch(names: list[str]) -> None:
        def hook(module: nn.Module, args: tuple) -> None:
            handle.remove()
            hessian = Hessian(args[0].shape[-1], equal)
            hessian.add(args[0])
            solve(names, hessian)

        handle = targets[names[0]].register_forward_pre_hook(hook)
        handles.append(handle)

    for names in block.groups:
        watch(names)
    try:
        return block.run(hidden)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def walk(
    model: nn.Module,
    targets: dict[str, nn.Module],
    windows: list[Tensor],
    solve: Solve,
    *,
    changes: bool = True,
    equal_tokens: bool = False,
    budget: int = BUDGET,
    progress: Progress = silent,
) -> list[str]:
    """Call `solve(names, hessian)` for every group of layers in calling order.

    `solve` may change the weights of those layers and replace the modules in the model; what follows sees the change.

    Args:
        model: a transformers model in evaluation mode.
        targets: name → layer, as `find_targets` gives them.
        windows: token ids, each (1, tokens).
        solve: called once per group, with the names and the Hessian of their common input.
        changes: whether `solve` changes weights; if not, each block is passed once whatever the budget.
        equal_tokens: how tokens count in the Hessian; see `Hessian`.
        budget: bytes of activations inside one block; decides how much text goes through at a time.
        progress: called after every block.

    Returns:
        Names of targets that were never reached (outside the blocks, or experts that no token chose).
    """
    blocks = find_blocks(model, targets)
    _record(model, blocks, targets, windows)
    limit = part_tokens(model, targets, budget)
    parts = []
    for length in sorted({window.shape[1] for window in windows}):
        same = torch.cat([window for window in windows if window.shape[1] == length])
        parts += list(same.split(max(1, limit // length)))
    hidden = [_embed(model, blocks[0], part) for part in parts]
    reached = {name for block in blocks for names in block.groups for name in names}
    for index, block in enumerate(blocks):
        if not changes:
            hidden = _listen(block, targets, solve, hidden, equal_tokens)
        elif len(hidden) == 1:
            hidden = [_in_passing(block, targets, solve, hidden[0], equal_tokens)]
        else:
            for names in block.groups:
                hessian = Hessian(sizes(targets[names[0]])[1], equal_tokens)
                _watch(block, targets[names[0]], hidden, hessian)
                solve(names, hessian)
            for i, states in enumerate(hidden):
                hidden[i] = block.run(states)
        progress(index + 1, len(blocks), f"layer {index + 1} of {len(blocks)}")
    return [name for name in targets if name not in reached]


@dataclass
class Calibration:
    """Hessians of every layer's inputs in the unquantized model: computed once, good for any number of bits.

    Cheaper than walking again for every width, and a little worse: layers do not see the errors of those before them.
    Memory: 4·in² bytes per group of layers.
    """

    hessians: dict[str, Hessian]
    groups: list[list[str]]
    tokens: int

    @classmethod
    def collect(
        cls,
        model: nn.Module,
        windows: list[Tensor],
        *,
        skip=("lm_head",),
        equal_tokens: bool = True,
        progress: Progress = silent,
    ) -> Calibration:
        """Run the text once through the dense model.

        Args:
            model: a dense model; it is not changed.
            windows: token ids, each (1, tokens).
            skip: as for `quantize_model`.
            equal_tokens: as for `quantize_model`.
            progress: called after every block.

        Raises:
            UserError: for a quantized model, or fewer tokens than the widest layer has inputs.
        """
        from workbench.compress.targets import check_dense, find_targets

        check_dense(model)
        targets = find_targets(model, skip)
        check_tokens(targets, windows)
        found: dict[str, Hessian] = {}
        groups: list[list[str]] = []

        def keep(names: list[str], hessian: Hessian) -> None:
            groups.append(names)
            found.update(dict.fromkeys(names, hessian))

        walk(model, targets, windows, keep, changes=False, equal_tokens=equal_tokens, progress=progress)
        return cls(found, groups, sum(window.shape[1] for window in windows))
