"""A quantized model: its packed layers, the configuration it reloads by, its bytes, and the report of how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from workbench.compress.float_linear import FloatLinear
from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.nf4 import TABLES
from workbench.compress.records import FloatWeight, IntWeight
from workbench.compress.registry import WbFloatConfig, WbIntConfig, attach_quantizer
from workbench.compress.targets import dense_names


@dataclass
class QuantReport:
    """What was done and what it cost.

    Attributes:
        method: rtn, gptq, awq, efficientqat, nf4, fp4 or int8-mixed.
        bits: bits per code.
        bytes: stored bytes of the whole model, embeddings and head included, tied weights once.
        bits_per_weight: stored bits per quantized weight, scales and zero points included.
        layers: one {name, error, of} per layer. `of` says of what the error is a share: "output" is
            ‖XΔᵀ‖ / ‖XWᵀ‖ on the calibration text, "weight" is ‖Δ‖ / ‖W‖.
        blocks: of efficientqat: one {name, before, after} per block: its relative output error on the first windows,
            rounded and trained.
        losses: of efficientqat: next-token loss of every end-to-end update, nats per token.
        seconds: wall time.
        peak_bytes: highest resident memory of the process meanwhile.
        notes: dead inputs, raised damping, layers that fell back to rounding.
        settings: the arguments.
    """

    method: str
    bits: int
    bytes: int = 0
    bits_per_weight: float = 0.0
    layers: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the model's saved tensors, tied weights counted once."""
    seen, total = set(), 0
    for tensor in model.state_dict(keep_vars=True).values():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            total += tensor.numel() * tensor.element_size()
    return total


def packed_layer(module: nn.Module, record: IntWeight | FloatWeight) -> PackedLinear:
    """The packed layer that takes the place of `module`, with its bias."""
    kind = IntLinear if isinstance(record, IntWeight) else FloatLinear
    layer = kind.from_record(record, module.bias)
    layer.was_conv1d = not isinstance(module, nn.Linear)
    return layer.train(module.training)


def weight_error(weight: Tensor, record: IntWeight | FloatWeight) -> float:
    """‖W − Ŵ‖ / ‖W‖."""
    weight = weight.float()
    return float((weight - record.dequantize()).norm() / weight.norm().clamp(min=1e-30))


def record_parts(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Name → the optional parts of a layer's record, for those that have any."""
    packed = {name: module for name, module in model.named_modules() if isinstance(module, IntLinear)}
    return {name: parts for name, module in packed.items() if (parts := module.parts(module))}


def finish(model, method, bits, group_size, symmetric, double_quant) -> None:
    """Give the model the configuration it saves and reloads by, and put codes in the fast order."""
    dense = dense_names(model)
    if method in TABLES:
        config = WbFloatConfig(
            kind=method, block_size=group_size, double_quant=double_quant, modules_to_not_convert=dense
        )
    else:
        config = WbIntConfig(
            bits=bits, group_size=group_size, symmetric=symmetric, method=method, modules_to_not_convert=dense,
            parts=record_parts(model),
        )  # fmt: skip
    attach_quantizer(model, config)
    for module in model.modules():
        if isinstance(module, IntLinear):
            module.prepare()
