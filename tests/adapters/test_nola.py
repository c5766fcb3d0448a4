"""NOLA: the formula, its gradient, its start, its memory, its refusals."""

import copy
import json
import math

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F

from workbench.adapters import NolaConfig, NolaLayer
from workbench.adapters._random import derive, random_numbers
from workbench.adapters.nola import random_combination
from workbench.errors import UserError


class Tower(nn.Module):
    """Two linear layers called `wide` and `tall`."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.wide = nn.Linear(24, 8, dtype=dtype)
        self.tall = nn.Linear(8, 24, dtype=dtype)

    def forward(self, x):
        return self.tall(torch.tanh(self.wide(x)))


def tuned(steps=3, dtype=torch.float32, **settings):
    """A tower with one NOLA adapter after `steps` optimizer steps, and an input."""
    torch.manual_seed(0)
    settings = {"r": 4, "num_basis": 12, "target_modules": ["wide", "tall"], **settings}
    model = get_peft_model(Tower(dtype), NolaConfig(**settings))
    x = torch.randn(6, 24, dtype=dtype)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x).float(), torch.ones(6, 24)).backward()
        optimizer.step()
    return model, x


def layer(model) -> NolaLayer:
    return model.base_model.model.wide


def test_combination_by_hand():
    numbers = random_numbers(5, 0, 4)
    out = random_combination(torch.tensor([2.0, -1.0]), (2,), seed=5)
    assert out.tolist() == pytest.approx((2 * numbers[:2] - numbers[2:]).tolist(), abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 7, None])
@pytest.mark.parametrize("basis", ["uniform", "normal", "sparse"])
def test_combination_equals_the_dense_sum(chunk, basis):
    coeffs = torch.randn(7, dtype=torch.float64)
    bases = random_numbers(3, 0, 7 * 15, basis, dtype=torch.float64).view(7, 5, 3)
    dense = torch.einsum("k,kab->ab", coeffs, bases)
    torch.testing.assert_close(random_combination(coeffs, (5, 3), 3, chunk, basis), dense, rtol=1e-12, atol=1e-12)


def test_gradient_is_right_in_float64():
    coeffs = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: random_combination(c, (4, 2), 1, 4), coeffs)


def test_combination_keeps_only_the_coefficients_for_backward():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        random_combination(torch.zeros(64, requires_grad=True), (16, 32), 0)
    assert saved == [64]


def test_forward_is_the_formula_of_the_paper():
    model, x = tuned(alpha=6.0)
    wide, k, r = layer(model), 12, 4
    alpha, beta = wide.nola_alpha["default"].detach(), wide.nola_beta["default"].detach()
    stream = {name: derive(0, "wide", name) for name in ("A0", "A", "B")}
    a0 = random_numbers(stream["A0"], 0, r * 24).view(r, 24) / math.sqrt(24)
    a = a0 + torch.einsum("k,kri->ri", alpha, random_numbers(stream["A"], 0, k * r * 24).view(k, r, 24)) / math.sqrt(k)
    b = torch.einsum("k,kor->or", beta, random_numbers(stream["B"], 0, k * 8 * r).view(k, 8, r)) / math.sqrt(k)
    expected = wide.base_layer(x) + 6.0 / r * (x @ a.T) @ b.T
    torch.testing.assert_close(wide(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wide.get_delta_weight("default"), 6.0 / r * b @ a, rtol=1e-5, atol=1e-6)


def test_starts_as_the_base_model_and_only_beta_learns_in_the_first_step():
    model, x = tuned(steps=0)
    with model.disable_adapter():
        base = model(x)
    assert torch.equal(model(x), base)
    model(x).square().sum().backward()
    assert all(not p.grad.any() for n, p in model.named_parameters() if "nola_alpha" in n)
    assert all(p.grad.all() for n, p in model.named_parameters() if "nola_beta" in n)


def test_after_two_steps_every_coefficient_has_moved():
    model, _ = tuned(steps=2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.abs().min() > 0, name


@pytest.mark.parametrize(("r", "width"), [(2, 24), (4, 24), (8, 24)])
def test_trainable_count_does_not_depend_on_shape_or_rank(r, width):
    model, _ = tuned(steps=0, r=r, num_basis=9)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 9 * 2


def test_published_count_for_llama_2_70b():
    # 80 layers, 7 linear layers each, k = 512: 0.573 M (README of the reference)
    assert 80 * 7 * NolaConfig(num_basis=512).trainable_per_module(8192, 28672) == 573_440


@pytest.mark.parametrize("materialize", ["never", "inference", "always"])
def test_the_three_memory_settings_compute_the_same(materialize):
    model, x = tuned(materialize="never")
    other, _ = tuned(steps=0, materialize=materialize)
    other.load_state_dict(model.state_dict())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(other(x), model(x), rtol=1e-5, atol=1e-6)
    other.zero_grad()
    model.zero_grad()
    for one in (other, model):
        one(x).square().sum().backward()
    torch.testing.assert_close(
        layer(other).nola_alpha["default"].grad, layer(model).nola_alpha["default"].grad, rtol=1e-4, atol=1e-5
    )


def test_kept_factors_follow_the_coefficients():
    model, x = tuned(materialize="inference")
    with torch.no_grad():
        before = model(x)
        first = layer(model).nola_kept["default"][1][0]
        model(x)
        assert layer(model).nola_kept["default"][1][0] is first  # kept, not made again
        layer(model).nola_beta["default"].mul_(2)
        assert not torch.allclose(model(x), before)
    with torch.inference_mode():
        inside = model(x)
    outside = model(x.clone().requires_grad_())
    torch.testing.assert_close(outside, inside.clone(), rtol=1e-5, atol=1e-6)
    outside.sum().backward()  # factors kept inside inference mode must not leak into autograd


def test_regenerated_basis_needs_far_less_memory_in_backward_than_a_stored_one():
    from workbench.adapters.nola import NolaConfig as Config

    def held(materialize):
        model = get_peft_model(Tower(), Config(r=8, num_basis=60, target_modules=["wide"], materialize=materialize))
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model(torch.randn(2, 24))
        return sum(sizes.values())

    assert held("always") > 5 * held("never")


def test_a_forward_leaves_the_random_state_of_the_program_alone():
    model, x = tuned()
    before = torch.random.get_rng_state()
    model(x).sum().backward()
    assert torch.equal(before, torch.random.get_rng_state())


def test_file_holds_2k_numbers_per_layer_and_reloads_bit_equal(tmp_path):
    model, x = tuned()
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(t.numel() for t in stored.values()) == [12, 12, 12, 12]
    torch.manual_seed(99)
    again = PeftModel.from_pretrained(copy.deepcopy(model).unload(), tmp_path)
    assert torch.equal(again(x), model.eval()(x))


def test_coefficients_stay_float32_on_a_half_precision_base():
    model, x = tuned(dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model(x).dtype == torch.bfloat16
    uncast = get_peft_model(
        Tower(torch.bfloat16), NolaConfig(r=4, num_basis=12, target_modules=["wide"]), autocast_adapter_dtype=False
    )
    assert layer(uncast).nola_alpha["default"].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        a, _ = layer(model).factors("default")
    assert a.dtype == torch.float32
    assert torch.equal(a, layer(model).factors("default")[0])


def test_mean_start_is_the_average_of_kaiming_bases():
    model, x = tuned(steps=0, init="mean")
    a, b = layer(model).factors("default")
    bases = random_numbers(derive(0, "wide", "A"), 0, 12 * 4 * 24).view(12, 4, 24)
    torch.testing.assert_close(a, bases.mean(0) / math.sqrt(4 * 24))
    assert b.abs().max() > 0
    with model.disable_adapter():
        base = model(x)
    assert not torch.equal(model(x), base)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 0}, "r=0"), ({"r": 2.5}, "r=2.5"), ({"num_basis": 0}, "num_basis=0"), ({"alpha": 0.0}, "alpha"),
        ({"basis": "unifrom"}, "did you mean uniform"), ({"materialize": "sometimes"}, "materialize"),
        ({"init": "zeros"}, "did you mean zero"), ({"bias": "lora_only"}, "nola_only"),
        ({"generator": "cuda-1"}, "generator 'cuda-1'"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_the_fix(settings, says):
    with pytest.raises(UserError, match=says):
        NolaConfig(**settings)


def test_biases_of_adapted_layers_can_be_trained_too():
    model, _ = tuned(bias="nola_only", target_modules=["wide"])
    free = {name for name, p in model.named_parameters() if p.requires_grad and "nola" not in name}
    assert free == {"base_model.model.wide.base_layer.bias"}


def test_more_coefficients_than_entries_is_refused():
    with pytest.raises(UserError, match=r"num_basis=32 is not below the 32 entries .* of wide .*use LoRA"):
        tuned(r=4, num_basis=32)
    tuned(r=4, num_basis=31)


def test_layers_that_are_not_linear_and_names_that_match_nothing_are_refused():
    model = nn.Sequential()
    model.conv, model.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    with pytest.raises(UserError, match="cannot adapt conv"):
        get_peft_model(model, NolaConfig(r=1, num_basis=1, target_modules=["conv"]))
    with pytest.raises(UserError, match="the nearest are head"):
        get_peft_model(model, NolaConfig(r=1, num_basis=1, target_modules=["haed"]))


def test_combination_refuses_half_precision_and_an_empty_chunk():
    with pytest.raises(UserError, match="float16"):
        random_combination(torch.zeros(3, dtype=torch.float16), (2,), 0)
    with pytest.raises(UserError, match="chunk=0"):
        random_combination(torch.zeros(3), (2,), 0, chunk=0)


def test_config_survives_its_file(tmp_path):
    NolaConfig(r=3, num_basis=7, basis="sparse", seed=5, target_modules=["wide"]).save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(again, NolaConfig)
    assert (again.r, again.num_basis, again.basis, again.seed, again.target_modules) == (3, 7, "sparse", 5, {"wide"})
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    stored["generator"] = "future-9"
    (tmp_path / "adapter_config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="future-9"):
        PeftConfig.from_pretrained(tmp_path)
