from __future__ import annotations

import copy as copying
import re

import pytest
import torch

from workbench.errors import UserError
from workbench.models import fingerprint, load_model

# peft 0.21.2 asks transformers 5.23 for a property by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def model(originals):
    return load_model(originals["llama"][1], device="cpu")


def tuned(model, rank=2, alpha=4, seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False)
    return get_peft_model(model, config)


def test_twelve_digits_equal_for_equal_weights(model, originals):
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(model))
    assert fingerprint(model) == fingerprint(load_model(originals["llama"][1]))
    assert fingerprint(torch.nn.Linear(1, 1, bias=False).bfloat16()) != ""


def test_the_smallest_change_of_one_weight_is_seen(model):
    before = fingerprint(model)
    weight = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        kept = weight[3, 5].clone()
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
        assert fingerprint(model) != before
        weight[3, 5] = kept
    assert fingerprint(model) == before


def test_dtype_shape_and_place_count():
    a = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.zeros(2, 3))})
    b = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.zeros(3, 2))})
    c = torch.nn.ParameterDict({"v": torch.nn.Parameter(torch.zeros(2, 3))})
    d = torch.nn.ParameterDict({"w": torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.bfloat16))})
    assert len({fingerprint(m) for m in (a, b, c, d)}) == 4


def test_buffers_scalars_and_empty_tensors_are_hashed():
    module = torch.nn.Module()
    module.register_buffer("scale", torch.tensor(2.0))
    module.register_buffer("none", torch.empty(0, 4))
    before = fingerprint(module)
    module.scale += 1
    assert fingerprint(module) != before


def test_an_active_adapter_counts_and_a_disabled_one_does_not(model):
    base = fingerprint(model)
    wrapped = tuned(model)
    adapted = fingerprint(wrapped)
    assert adapted != base
    with wrapped.disable_adapter():
        assert fingerprint(wrapped) == base
    assert fingerprint(wrapped) == adapted


def test_only_the_active_one_of_two_adapters_counts(model):
    from peft import LoraConfig

    wrapped = tuned(model)
    alone = fingerprint(wrapped)
    wrapped.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert fingerprint(wrapped) == alone
    wrapped.set_adapter("other")
    assert fingerprint(wrapped) != alone


def test_the_strength_of_an_adapter_counts(model):
    weak = fingerprint(tuned(copying.deepcopy(model), alpha=2))
    strong = fingerprint(tuned(copying.deepcopy(model), alpha=4))
    assert weak != strong


def test_a_saved_adapter_has_the_same_print_when_loaded_again(model, originals, tmp_path):
    from peft import PeftModel

    wrapped = tuned(model)
    wrapped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load_model(originals["llama"][1]), tmp_path)
    assert fingerprint(again) == fingerprint(wrapped)


def test_weights_without_values_are_refused(originals):
    with torch.device("meta"):
        empty = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="weight bias has no values yet"):
        fingerprint(empty)
