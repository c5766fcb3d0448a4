"""Training a whole network inside a random flat of its parameter space: θ = θ0 + P z, only z (d,) is trained.

`RandomSubspace` wraps any module. Its parameters are z (and the scales λ of SAID, and those you name as `free`); the
wrapped network keeps θ0, frozen, and runs with θ by a functional call. With `structure`, tensor i of m moves by
λ_i · P_i z instead, λ starting at 1; the m scales are paid from d, so z has d − m entries (SAID; without: DID).

    small = RandomSubspace(network, d=200, projection="fastfood", seed=0)
    optimizer = torch.optim.Adam(small.parameters(), lr=0.1)        # rates 10–100 times the direct ones
    network.load_state_dict(small.materialize())                    # an ordinary network again
    small.to_bytes()                                                # seed and d numbers: the whole solution

Source: Li et al., ICLR 2018, arXiv 1804.08838, §2; Aghajanyan et al., ACL 2021, arXiv 2012.13255, §3, code in
rabeehk/compacter. Departures: a functional call instead of deleting and setting attributes; the adjoint is exact.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from torch.func import functional_call

from workbench.adapters._random import GENERATOR
from workbench.adapters._subspace import Projection
from workbench.errors import UserError


class RandomSubspace(nn.Module):
    """A network whose trained numbers are d coordinates in a random flat through its present parameters.

    Args:
        module: the network; it is frozen, kept, and never changed. Buffers stay as they are.
        d: numbers trained (λ included, `free` not).
        projection: fastfood, dense, sparse or layerwise_fastfood.
        seed: of the projection.
        structure: train one scale per parameter tensor as well (SAID).
        include: pattern of parameter names inside the flat, by default all. Tied weights count once.
        free: pattern of parameter names that are trained directly, outside the flat.
        reference_grad: the released code's gradient (each tensor weighted by 1/L) instead of the exact one.

    Raises:
        UserError: d below 1, above the number of parameters, or not above the number of scales; patterns that match
            nothing; a dense projection that would not fit.
    """

    def __init__(
        self, module: nn.Module, d: int, projection: str = "fastfood", seed: int = 0, *, structure: bool = False,
        include: str | None = None, free: str | None = None, reference_grad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        named = dict(module.named_parameters())
        apart = [name for name in named if free is not None and re.search(free, name)]
        inside = [name for name in named if name not in apart and (include is None or re.search(include, name))]
        for pattern, found in ((include, inside), (free, apart)):
            if pattern is not None and not found:
                raise UserError(f"No parameter is called like {pattern!r}; there are {', '.join(list(named)[:8])} …")
        sizes = [named[name].numel() for name in inside]
        scales = len(sizes) if structure else 0
        if isinstance(d, bool) or not isinstance(d, int) or not scales < d <= sum(sizes):
            raise UserError(
                f"d={d!r} is not possible here: it must be above {scales} (one scale for each tensor) and at most "
                f"{sum(sizes)}, the number of parameters."
            )
        module.requires_grad_(False)
        self.__dict__["wrapped"] = module  # not a submodule: its parameters are not ours
        self.names = tuple(inside)
        self.settings = {"d": d, "projection": projection, "seed": seed, "structure": structure}
        self.projection = Projection(projection, sizes, d - scales, seed, reference_grad)
        like = named[inside[0]]
        self.z = nn.Parameter(
            torch.zeros(d - scales, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        )
        self.scales = nn.Parameter(torch.ones_like(self.z[:1]).expand(scales).clone()) if structure else None
        self.free = nn.ParameterList(named[name].requires_grad_(True) for name in apart)
        self.train(module.training)

    def offset(self) -> torch.Tensor:
        """θ − θ0 over all tensors inside (D,): P z, scaled tensor by tensor under `structure`."""
        moved = self.projection(self.z)
        if self.scales is None:
            return moved
        counts = torch.tensor(self.projection.sizes, device=moved.device)
        return moved * self.scales.repeat_interleave(counts, output_size=self.projection.total)

    def current(self) -> dict[str, torch.Tensor]:
        """θ of the tensors inside, by name; differentiable in z."""
        start = dict(self.wrapped.named_parameters())
        pieces = self.offset().split(self.projection.sizes)
        return {
            name: start[name] + piece.view_as(start[name]).to(start[name].dtype)
            for name, piece in zip(self.names, pieces, strict=True)
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own output, at θ."""
        if getattr(self.wrapped, "is_gradient_checkpointing", False):
            raise UserError(
                "A subspace network cannot use gradient checkpointing: the second forward pass would see the starting "
                "parameters; call gradient_checkpointing_disable()."
            )
        return functional_call(self.wrapped, self.current(), args, kwargs)

    def train(self, mode: bool = True) -> RandomSubspace:
        """Training or evaluation mode, of the wrapped network too."""
        self.wrapped.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> RandomSubspace:
        self.wrapped._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def materialize(self) -> dict[str, torch.Tensor]:
        """An ordinary state dict of the wrapped network at θ (a copy)."""
        current = self.current()
        first = {id(p): name for name, p in self.wrapped.named_parameters()}
        state = {name: value.clone() for name, value in self.wrapped.state_dict().items()}
        for name, parameter in self.wrapped.named_parameters(remove_duplicate=False):
            if first[id(parameter)] in current:
                state[name] = current[first[id(parameter)]].clone()
        return state

    def checksum(self) -> str:
        """12 hex digits of θ0: a file of coordinates means something on this very start only."""
        digest, named = hashlib.sha256(), dict(self.wrapped.named_parameters())
        for name in self.names:
            digest.update(named[name].detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:12]

    def to_bytes(self) -> bytes:
        """z, λ, the free parameters, and what it takes to make P again (safetensors)."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        about = {**self.settings, "generator": GENERATOR, "start": self.checksum()}
        return save(tensors, {name: str(value) for name, value in about.items()})

    def load_bytes(self, data: bytes) -> None:
        """Take over coordinates saved by `to_bytes`.

        Raises:
            UserError: when they belong to another start, projection or generator.
        """
        length = int.from_bytes(data[:8], "little")
        kept = json.loads(data[8 : 8 + length])["__metadata__"]
        own = {name: str(v) for name, v in {**self.settings, "generator": GENERATOR, "start": self.checksum()}.items()}
        for name, value in own.items():
            if kept.get(name) != value:
                raise UserError(
                    f"These coordinates were saved with {name}={kept.get(name)}, here it is {value}; "
                    "build the subspace as it was."
                )
        self.load_state_dict(load(data))
