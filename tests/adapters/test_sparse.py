"""Sparse deltas as a peft tuner: budgets, masks, exact merging, files, the fast path, refusals."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.adapters import SpielConfig
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Three(nn.Module):
    """Two linear layers of different size and one that stores its weight the other way round."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(20, 30), nn.Linear(30, 10, bias=False), Conv1D(6, 10)
        nn.init.normal_(self.c.weight)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def adapted(base=None, **settings):
    return get_peft_model(base or Three(), SpielConfig(**{"target_modules": ["a", "b", "c"], **settings}))


def layers(model):
    return {name: model.base_model.model.get_submodule(name) for name in "abc"}


def counts(model):
    return [len(layer.spiel_values["default"]) for layer in layers(model).values()]


def fill(model):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for layer in layers(model).values():
            values = layer.spiel_values["default"]
            values.copy_(torch.randn(len(values), generator=generator))
    return model


def test_budgets_by_density_by_count_and_like_lora():
    assert counts(adapted(density=0.05)) == [30, 15, 3]  # of 600, 300, 60
    assert counts(adapted(num_weights=96)) == [60, 30, 6]
    # LoRA of rank 2 trains 2·(50 + 40 + 16) = 212 numbers; they go by size, not by LoRA's own shares
    assert sum(counts(adapted(like_lora_rank=2))) == 212
    assert counts(adapted(like_lora_rank=2)) == pytest.approx([212 * n / 960 for n in (600, 300, 60)], abs=1)


def test_a_small_matrix_gets_one_delta_and_a_sentence():
    with pytest.warns(UserWarning, match="less than one delta to 1 matrices; each gets one"):
        assert counts(adapted(density=0.005)) == [3, 2, 1]


def test_a_budget_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="2 deltas cannot be spread over 3 matrices"):
        adapted(num_weights=2)
    with pytest.raises(UserError, match="of 960 entries"):
        adapted(like_lora_rank=20)


def test_output_is_that_of_the_changed_weights_in_both_layouts():
    model, base, x = fill(adapted(density=0.05)), Three(), torch.randn(4, 20)
    with torch.no_grad():
        for name, layer in layers(model).items():
            weight = base.get_submodule(name).weight
            moved = torch.zeros(layer.shape)
            for position, value in zip(
                layer.spiel_indices["default"].tolist(), layer.spiel_values["default"], strict=True
            ):
                moved[position // layer.in_features, position % layer.in_features] = value
            weight += moved.T if name == "c" else moved
        torch.testing.assert_close(model(x), base(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_unmerging_gives_every_bit_back(dtype):
    model = fill(adapted(Three().to(dtype), density=0.05))
    before = {name: layer.get_base_layer().weight.clone() for name, layer in layers(model).items()}
    model.merge_adapter()
    changed = {
        name: (layer.get_base_layer().weight != before[name]).sum().item() for name, layer in layers(model).items()
    }
    assert changed["a"] > 20 and sum(changed.values()) <= 48
    model.unmerge_adapter()
    assert all(torch.equal(layer.get_base_layer().weight, before[name]) for name, layer in layers(model).items())


def test_two_merged_adapters_come_out_in_either_layout_bit_for_bit():
    model = fill(adapted(density=0.2))
    model.add_adapter("other", SpielConfig(target_modules=["a", "c"], density=0.3, seed=7))
    with torch.no_grad():
        for name in "ac":
            layers(model)[name].spiel_values["other"].fill_(0.1)
    before = {name: layer.get_base_layer().weight.clone() for name, layer in layers(model).items()}
    model.base_model.set_adapter(["default", "other"])
    x = torch.randn(3, 20)
    apart = model(x)
    model.merge_adapter()
    torch.testing.assert_close(model(x), apart, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    assert all(torch.equal(layer.get_base_layer().weight, before[name]) for name, layer in layers(model).items())


def test_magnitude_mask_takes_the_largest_weights_in_both_layouts():
    model = adapted(mask="magnitude", selection="static", num_weights=48)
    for layer in layers(model).values():
        weight = layer.get_base_layer().weight
        size = (weight.T if layer.transposed else weight).abs().reshape(-1)
        chosen = size[layer.spiel_indices["default"].long()]
        assert chosen.min() >= size.sort(descending=True).values[len(chosen) - 1]


def test_first_places_follow_the_seed_and_are_each_layers_own():
    def places(**settings):
        return [layer.spiel_indices["default"].tolist() for layer in layers(adapted(density=0.05, **settings)).values()]

    assert places(seed=1) == places(seed=1) != places(seed=2)
    both = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model = get_peft_model(both, SpielConfig(target_modules=["0", "1"], density=0.05))
    one, two = (model.base_model.model[i].spiel_indices["default"].tolist() for i in (0, 1))
    assert one != two


def test_file_holds_values_and_places_and_nothing_dense(tmp_path):
    model = fill(adapted(density=0.05))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rpartition(".")[2] for name in saved} == {"spiel_values", "spiel_indices"}
    assert sum(tensor.numel() for tensor in saved.values()) == 2 * 48
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32, torch.int32}
    again = PeftModel.from_pretrained(Three(), tmp_path)
    x = torch.randn(2, 20)
    assert torch.equal(again(x), model(x))
    for name, layer in layers(again).items():
        assert torch.equal(layer.spiel_indices["default"], layers(model)[name].spiel_indices["default"])


def test_one_product_and_base_plus_branch_agree():
    model, x = fill(adapted(density=0.05)), torch.randn(4, 20, requires_grad=True)
    fast = model(x)
    (to_x,) = torch.autograd.grad(fast.sum(), x, retain_graph=True)
    (to_values,) = torch.autograd.grad(fast.sum(), layers(model)["a"].spiel_values["default"])
    for layer in layers(model).values():
        layer.base_layer.register_forward_hook(lambda *_: None)  # somebody listens: the base must be called
    slow = model(x)
    torch.testing.assert_close(slow, fast, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(slow.sum(), x, retain_graph=True)[0], to_x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(slow.sum(), layers(model)["a"].spiel_values["default"])[0], to_values, rtol=1e-4, atol=1e-5
    )


def test_values_stay_float32_and_learn_small_steps_on_a_bfloat16_base():
    model = adapted(Three().bfloat16(), density=0.05)
    values = layers(model)["a"].spiel_values["default"]
    assert values.dtype == torch.float32
    with torch.no_grad():
        values.add_(1.0).add_(1e-4)  # bfloat16 would lose it
    assert (values > 1).all()
    assert model(torch.randn(2, 20, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 0.0}, "density=0.0 must lie above 0"), ({"density": 1.5}, "density=1.5"),
        ({"num_weights": 5, "like_lora_rank": 2}, "give one of them"), ({"num_weights": 0}, "num_weights=0"),
        ({"like_lora_rank": 1.5}, "like_lora_rank=1.5"), ({"interval": 6}, "interval of at least 7"),
        ({"selection": "gradients"}, "did you mean gradient"), ({"mask": "largest"}, "magnitude"),
        ({"schedule": "step"}, "linear"), ({"bias": "some"}, "bias setting"), ({"initial_rate": 1.2}, "initial_rate=1.2"),
        ({"accumulate": True}, "accumulate=True"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        SpielConfig(**settings)


def test_a_static_mask_may_have_any_interval():
    assert SpielConfig(selection="static", interval=1).interval == 1


def test_formula_of_one_layer():
    assert SpielConfig(density=0.01).trainable_per_module(100, 30) == 30
    assert SpielConfig(like_lora_rank=3).trainable_per_module(100, 30) == 390
    with pytest.raises(UserError, match="count of the whole model"):
        SpielConfig(num_weights=5).trainable_per_module(100, 30)
