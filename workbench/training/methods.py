"""Every way to fine-tune, by name: peft's own mapping, ours (`workbench.adapters`), full, last-n and bitfit.

Nothing is listed by hand but names that differ from peft's, presets (dora is lora with one switch set), one line of help
and the usual learning rate. A method that peft adds tomorrow appears here; arguments come from its config dataclass,
their help from the fields' metadata. Methods that need more than a model and text are left out, with the reason.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping
from typing import Any

from workbench.errors import UserError, choose


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train.

    Attributes:
        name: what the user types.
        help: what it does and what it costs, one line.
        target: `module:Class` of its configuration (or the function that selects parameters).
        arguments: [{name, default, help}], in the configuration's order.
        learning_rate: usual value with AdamW.
        peft_type: key in peft's mapping; None for methods that train the model's own parameters.
        preset: configuration values that make this method of a more general one.
    """

    name: str
    help: str
    target: str
    arguments: tuple[dict[str, Any], ...]
    learning_rate: float
    peft_type: str | None = None
    preset: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse arguments that this method does not have.

        Raises:
            UserError: with the nearest names.
        """
        names = [argument["name"] for argument in self.arguments]
        for name in values:
            if name not in names:
                if not names:
                    raise UserError(f"{self.name} takes no arguments, so leave out {name!r}.")
                choose(f"argument of {self.name}", name, names)


NAMES = {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
LEFT_OUT = {
    "XLORA": "it mixes adapters that are trained already",
    "POLY": "it needs a task number for every row",
    "MULTITASK_PROMPT_TUNING": "it needs a task number for every row",
    "CPT": "it needs the type of every token of a prompt",
    "CARTRIDGE": "it needs a key-value cache computed beforehand",
}
PRESETS = {"dora": ("LORA", {"use_dora": True}), "rslora": ("LORA", {"use_rslora": True})}
# Fields that peft fills itself or that belong to machinery outside this job.
_HIDDEN = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "revision", "runtime_config", "task_type", "total_step", "token_dim", "num_transformer_submodules",
    "num_attention_heads", "num_layers", "progressbar",
}  # fmt: skip
_DEFAULTS = {  # where peft has none, or one that no usual model can take
    "prompt": {"num_virtual_tokens": 16},
    "prefix": {"num_virtual_tokens": 8},
    "p-tuning": {"num_virtual_tokens": 16, "encoder_hidden_size": 128},
    "adaption-prompt": {"adapter_len": 10},
    "trainable-tokens": {"token_indices": None},
}
_RATES = {
    "full": 5e-5, "last-n": 1e-4, "bitfit": 1e-3, "ia3": 5e-3, "prompt": 3e-2, "prefix": 1e-2, "p-tuning": 3e-3,
    "adaption-prompt": 1e-2, "vera": 5e-3, "pvera": 5e-3, "fourierft": 5e-3, "ln-tuning": 1e-3, "osf": 5e-5, "tinylora": 5e-3,
    "vblora": 1e-2, "c3a": 5e-2, "beft": 1e-3, "nola": 1e-2,
    "compacter": 1.6e-2, "unified": 1.6e-2, "dept": 4e-3, "wb-randlora": 1e-2,
    "said": 3e-2, "spiel": 3e-3,
}  # fmt: skip
_HELP = {
    "full": "Trains every parameter. Best fit, about 4 times the model in memory, a file of the model's size.",
    "last-n": "Trains the last n layers and the final norm. Cheaper than full; the file has the model's size.",
    "bitfit": "Trains bias terms only. Few parameters; needs a model that has biases.",
    "adamss": "Splits each weight into clusters of directions and trains a small update inside each. Slow to set up.",
    "beft": "Trains an added bias on the value projections only. Fewest parameters.",
    "deft": "Projects a few directions of each weight away and puts learned ones in their place. LoRA's cost.",
    "delora": "LoRA with the direction and the strength of the update trained apart. Forgiving about the learning rate.",
    "frod": "Joint decomposition over all layers with sparse trained rotations. Few parameters, slow to set up.",
    "glora": "Scales and shifts weights, biases and inputs at once. About 3 times LoRA's parameters.",
    "gralora": "LoRA in blocks of each weight: higher rank at LoRA's parameter count.",
    "hra": "Reflects each weight by a chain of learned Householder mirrors. Few parameters.",
    "lily": "LoRA with factors shared and mixed across layers.",
    "peanut": "A small nonlinear network of the weight makes the update. LoRA's parameters, slower steps.",
    "psoft": "Rotates each weight inside its main directions. Few parameters, slow to set up.",
    "pvera": "VeRA with random scales during training. Few parameters.",
    "shadow": "A small parallel network corrects every layer. More parameters than LoRA; cannot be merged.",
    "supertuning": "Trains the largest entries of each weight only. Very few parameters.",
    "tinylora": "A handful of trained numbers over frozen random directions. Fewest parameters of all.",
    "unilora": "All LoRA factors drawn from one short trained vector. Tiny files.",
    "waveft": "Update from a few trained coefficients of its wavelet transform. Very few parameters.",
    "adalora": "LoRA that moves rank to the layers that need it during training. About 1.5 times LoRA's time.",
    "adaption-prompt": "Learned prompts in the upper layers with a gate that starts at zero. Few parameters.",
    "boft": "Rotates weights by a butterfly product of small rotations. Few parameters, slow.",
    "c3a": "Update by circular convolution: full rank from one row per block.",
    "dora": "LoRA with the length of each weight column trained apart. Better at low rank, about 1.5 times the time.",
    "fourierft": "Update from a few trained frequencies of its Fourier transform. Very few parameters.",
    "hira": "Low-rank factor that multiplies the frozen weight entry by entry. LoRA's cost, full rank.",
    "ia3": "One trained scale per key, value and feed-forward channel. Very few parameters.",
    "ln-tuning": "Trains the normalisation layers only. Very few parameters.",
    "loha": "Product of two low-rank factors, entry by entry. Rank up to r².",
    "lokr": "Kronecker product with a low-rank factor. Fewer parameters than LoRA.",
    "lora": "Adds a product of two thin matrices to each chosen weight. The usual first choice.",
    "miss": "One shared small matrix per weight, tiled over it. Fast and frugal.",
    "nola": "LoRA factors as trained sums of frozen random matrices. Tiny files, slower steps.",
    "oft": "Rotates the rows of each weight in blocks. Keeps angles between neurons.",
    "osf": "Trains the small directions of each weight and freezes the large ones. Near full cost, forgets less.",
    "p-tuning": "Prompt vectors produced by a small network. Few parameters.",
    "prefix": "Learned keys and values in front of every layer's. Few parameters, shortens nothing.",
    "prompt": "Learned vectors in front of the input. Fewest parameters, learns slowly.",
    "randlora": "Frozen random factors with trained scales: full rank at LoRA's parameter count.",
    "road": "Rotates pairs of outputs. Very few parameters, fast to serve.",
    "rslora": "LoRA scaled by 1/√r, so that high ranks keep learning.",
    "shira": "Trains a few scattered entries of each weight. LoRA's parameter count, full rank.",
    "trainable-tokens": "Trains the embeddings of chosen tokens only (token_indices).",
    "vblora": "Vectors of all LoRA factors drawn from one shared bank. Tiny files.",
    "vera": "One frozen random pair of factors for all layers, two trained scales each. Few parameters.",
}


def _own() -> list[Method]:
    layers = {
        "name": "layers",
        "default": 2,
        "help": "Layers to train, counted from the output. More costs time and memory.",
    }
    rows = [
        ("full", "train_all", ()),
        ("last-n", "train_last", (layers,)),
        ("bitfit", "train_biases", ()),
    ]
    return [
        Method(name, _HELP[name], f"workbench.training.attach:{function}", arguments, _RATES[name])
        for name, function, arguments in rows
    ]


def _plain(value: Any) -> Any:
    """A default as JSON can carry it."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else None


def _arguments(config_cls: type, changed: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    from workbench.adapters._placement import Placement

    found = []
    fields = dataclasses.fields(config_cls)
    places = {field.name for field in dataclasses.fields(Placement)} if issubclass(config_cls, Placement) else set()
    for field in sorted(fields, key=lambda field: field.name in places):  # what is inherited comes last
        if field.name in _HIDDEN or not field.init:
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
        text = field.metadata.get("help", "")
        text = " ".join(("".join(text) if isinstance(text, tuple) else text).split())
        found.append({"name": field.name, "default": changed.get(field.name, _plain(default)), "help": text})
    return tuple(found)


@functools.cache
def _catalogue() -> dict[str, Method]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from workbench import adapters

    adapters.register_all()
    papers = {method["name"].replace("_", "-"): method for method in adapters.methods()}
    found = {method.name: method for method in _own()}
    sources = [
        (NAMES.get(key, key.lower().replace("_", "-")), key, {}) for key in map(_key, PEFT_TYPE_TO_CONFIG_MAPPING)
    ]
    sources += [(name, key, preset) for name, (key, preset) in PRESETS.items()]
    for name, key, preset in sources:
        if key in LEFT_OUT:
            continue
        cls = PEFT_TYPE_TO_CONFIG_MAPPING[key]
        fallback = f"{cls.__name__.removesuffix('Config')}, {'ours' if name in papers else 'from peft'}."
        found[name] = Method(
            name=name,
            help=_HELP.get(name) or papers.get(name, {}).get("help") or fallback,
            target=f"{cls.__module__}:{cls.__name__}",
            arguments=_arguments(cls, {**_DEFAULTS.get(name, {}), **preset}),
            learning_rate=_RATES.get(name, 1e-3),
            peft_type=key,
            preset={**_DEFAULTS.get(name, {}), **preset},
        )
    return dict(sorted(found.items()))


def _key(peft_type: Any) -> str:
    return str(getattr(peft_type, "value", peft_type))


def find_method(name: str) -> Method:
    """The method called `name`; capitals and underscores are forgiven, and `prompt-tuning` means `prompt`.

    Raises:
        UserError: with the nearest names, or the reason why peft's method of that name is left out.
    """
    spelled = name.strip().lower().replace("_", "-")
    catalogue = _catalogue()
    spelled = NAMES.get(spelled.upper().replace("-", "_"), spelled)
    if spelled.upper().replace("-", "_") in LEFT_OUT:
        reason = LEFT_OUT[spelled.upper().replace("-", "_")]
        raise UserError(f"The method {name!r} cannot be trained from a data set alone: {reason}; try lora.")
    return catalogue[choose("method", spelled, catalogue)]


def list_methods() -> list[dict[str, Any]]:
    """All methods as plain records.

    Returns:
        [{name, class ("module:Class"), help, learning_rate, arguments: [{name, default, help}]}], sorted by name.
    """
    return [
        {
            "name": method.name,
            "class": method.target,
            "help": method.help,
            "learning_rate": method.learning_rate,
            "arguments": [dict(argument) for argument in method.arguments],
        }
        for method in _catalogue().values()
    ]
