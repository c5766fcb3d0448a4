"""transformers quantizers for the two records: `wb_int` and `wb_float`.

Importing this module makes them known (transformers has no entry points: without the import it builds the model dense
and leaves its weights random, with no more than a warning). Then

    AutoModelForCausalLM.from_pretrained(name, quantization_config=WbIntConfig(bits=4, group_size=64))   # on the fly
    model.save_pretrained(folder); AutoModelForCausalLM.from_pretrained(folder)                          # bit-exact

On the fly one tensor at a time is read, rounded and dropped, so memory stays at the packed model plus one layer.
GPTQ needs text: quantize a dense model with `quantize_model`, which attaches the same quantizer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import ConversionOps
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from workbench.compress.float_linear import FloatLinear
from workbench.compress.linear import IntLinear, PackedLinear
from workbench.compress.nf4 import TABLES, quantize_float
from workbench.compress.packing import check_bits
from workbench.compress.rtn import quantize_rtn, resolve_group
from workbench.compress.targets import dense_names, linear_classes, sizes
from workbench.errors import UserError, choose


class WbIntConfig(QuantizationConfigMixin):
    """Integer codes on a uniform grid.

    Args:
        bits: 2, 3, 4 or 8.
        group_size: weights per scale along the input; None or −1: one scale per output channel.
        symmetric: no zero points.
        method: how the codes were found ("rtn", "gptq" …); kept for the record.
        modules_to_not_convert: names that stay dense besides the head and tied weights.
        parts: name → arguments of `IntLinear` for layers whose record has optional parts.
    """

    def __init__(
        self,
        bits=4,
        group_size=64,
        symmetric=False,
        method="rtn",
        modules_to_not_convert=None,
        parts=None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("quant_method", None)
        _refuse(kwargs, self)
        check_bits(bits)
        self.quant_method = "wb_int"
        self.bits, self.symmetric, self.method = bits, symmetric, method
        self.group_size = -1 if group_size is None else group_size
        self.modules_to_not_convert = modules_to_not_convert
        self.parts = parts or {}

    def make(self, name: str, width: int, out: int, **options: Any) -> IntLinear:
        """The empty layer `name` of this format."""
        options |= self.parts.get(name, {})
        return IntLinear(width, out, bits=self.bits, group_size=self.group_size, symmetric=self.symmetric, **options)

    def buffers(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The packed buffers of a dense weight [out, in]."""
        record = quantize_rtn(weight, bits=self.bits, group_size=self.group_size, symmetric=self.symmetric)
        return IntLinear.pack_record(record)

    def check(self, name: str, width: int) -> None:
        """Refuse a layer that the group does not divide, naming it."""
        resolve_group(width, self.group_size, name)


class WbFloatConfig(QuantizationConfigMixin):
    """4-bit codes into a table of floats.

    Args:
        kind: "nf4" or "fp4".
        block_size: weights of the flattened matrix per scale.
        double_quant: scales in 8 bits.
        modules_to_not_convert: names that stay dense besides the head and tied weights.
    """

    def __init__(
        self, kind="nf4", block_size=64, double_quant=False, modules_to_not_convert=None, **kwargs: Any
    ) -> None:
        kwargs.pop("quant_method", None)
        _refuse(kwargs, self)
        choose("float table", kind, TABLES)
        self.quant_method = "wb_float"
        self.bits, self.kind, self.block_size, self.double_quant = 4, kind, block_size, double_quant
        self.modules_to_not_convert = modules_to_not_convert

    def make(self, name: str, width: int, out: int, **options: Any) -> FloatLinear:
        """The empty layer `name` of this format."""
        return FloatLinear(
            width, out, kind=self.kind, block_size=self.block_size, double_quant=self.double_quant, **options
        )

    def buffers(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The packed buffers of a dense weight [out, in]."""
        record = quantize_float(weight, kind=self.kind, block_size=self.block_size, double_quant=self.double_quant)
        return FloatLinear.pack_record(record)

    def check(self, name: str, width: int) -> None:
        """Blocks run over the flattened weight: every layer fits."""


def _refuse(kwargs: dict[str, Any], config: QuantizationConfigMixin) -> None:
    kwargs.pop("bits", None)  # written by WbFloatConfig for readers of config.json
    if kwargs:
        raise UserError(f"{type(config).__name__} has no setting {', '.join(sorted(kwargs))}.")


class _RoundOnLoad(ConversionOps):
    """Turn one dense checkpoint tensor into the packed buffers of its layer."""

    def __init__(self, config: WbIntConfig | WbFloatConfig) -> None:
        self.config = config

    def convert(self, input_dict, *, model=None, full_layer_name=None, missing_keys=None, **kwargs):
        value = next(iter(input_dict.values()))
        value = value[0] if isinstance(value, list) else value
        prefix = full_layer_name.rpartition(".")[0]
        layer = model.get_submodule(prefix)
        del layer._parameters["weight"]
        if missing_keys is not None:
            missing_keys.discard(full_layer_name)
        weight = value.t() if layer.was_conv1d else value
        if not bool(torch.isfinite(weight).all()):
            raise UserError(f"{prefix} holds NaN or infinite weights; the checkpoint is damaged.")
        return {f"{prefix}.{name}": tensor for name, tensor in self.config.buffers(weight).items()}


class WbQuantizer(HfQuantizer):
    """Builds packed layers before weights load; rounds on the fly when the checkpoint is dense."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model, **kwargs) -> None:
        config = self.quantization_config
        skip = self.get_modules_to_not_convert(
            model, config.modules_to_not_convert, model._keep_in_fp32_modules, add_default_skips=True
        )
        for name, module in list(model.named_modules()):
            if not isinstance(module, linear_classes()) or not should_convert_module(name, skip):
                continue
            out, width = sizes(module)
            config.check(name, width)
            layer = config.make(
                name, width, out, bias=module.bias is not None, device="meta", dtype=module.weight.dtype
            )
            layer.was_conv1d = not isinstance(module, nn.Linear)
            if not self.pre_quantized:  # a placeholder, so that the checkpoint's key finds its place
                layer.weight = nn.Parameter(torch.empty_like(module.weight, device="meta"), requires_grad=False)
            model.set_submodule(name, layer)
        config.modules_to_not_convert = dense_names(model)
        _guard_initialization(model)

    def param_needs_quantization(self, model, param_name: str, **kwargs) -> bool:
        prefix, _, name = param_name.rpartition(".")
        return name == "weight" and not self.pre_quantized and isinstance(model.get_submodule(prefix), PackedLinear)

    def get_quantize_ops(self) -> ConversionOps:
        return _RoundOnLoad(self.quantization_config)

    def _process_model_after_weight_loading(self, model, **kwargs):
        for module in model.modules():
            module.__dict__.pop("_init_weights", None)
            if isinstance(module, IntLinear):
                module.prepare()
        return model

    def _dequantize(self, model, dtype=None):
        for name, module in list(model.named_modules()):
            if isinstance(module, PackedLinear):
                model.set_submodule(name, dense_layer(module, dtype or torch.float32))
        return model

    @property
    def quantized_element_size(self) -> float:
        return self.quantization_config.bits / 8

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def _guard_initialization(model) -> None:
    """Let initialization skip blocks that reach for `.weight` of a layer that is packed now (GPT-2 does).

    A packed layer has no `weight` on purpose: one that is computed on the fly can be read, but what is written to it
    is lost, which is how merged adapters vanish.
    """

    def guarded(original):
        def initialize(module: nn.Module) -> None:
            try:
                original(module)
            except AttributeError:
                if not any(isinstance(child, PackedLinear) for child in module.children()):
                    raise

        return initialize

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._init_weights = guarded(module._init_weights)


def dense_layer(module: PackedLinear, dtype: torch.dtype) -> nn.Module:
    """The dense layer a packed one stands for: Conv1D where it was one."""
    from transformers.pytorch_utils import Conv1D

    device = next(module.buffers()).device
    weight = module.dequantize(torch.float32).to(dtype)
    if module.was_conv1d:
        dense = Conv1D(module.out_features, module.in_features).to(device, dtype)
        dense.weight.data = weight.t().contiguous()
    else:
        dense = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device=device, dtype=dtype
        )
        dense.weight.data = weight
    if module.bias is not None:
        dense.bias.data = module.bias.data.to(dtype)
    return dense.train(module.training)


def attach_quantizer(model, config: WbIntConfig | WbFloatConfig) -> None:
    """Make a model with packed layers save and reload as `from_pretrained` would have left it."""
    quantizer = WbQuantizer(config, pre_quantized=True)
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.config.quantization_config = config
    model.config._is_quantized = True


for _name, _config in (("wb_int", WbIntConfig), ("wb_float", WbFloatConfig)):
    if _name not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(_name)(_config)
    if _name not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(_name)(WbQuantizer)
