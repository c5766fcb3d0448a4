"""SAID and DID as a peft tuner: the formula, one vector for all matrices, counts, gradients, files, refusals."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from workbench.adapters import SaidConfig
from workbench.adapters._fastfood import fastfood, make_fastfood
from workbench.adapters._random import derive
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Two(nn.Module):
    """A wide and a narrow linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        return self.narrow(torch.tanh(self.wide(x)))


def adapted(d=12, **settings):
    return get_peft_model(Two(), SaidConfig(d=d, target_modules=["wide", "narrow"], **settings))


def parts_of(model):
    """z and the scales by layer name."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    (z,) = (p for name, p in named.items() if "said_z" in name)
    return z, {name.split(".")[2]: p for name, p in named.items() if "said_scale" in name}


def fill(model):
    z, scales = parts_of(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        z.copy_(torch.randn(z.shape, generator=generator))
        for scale in scales.values():
            scale.copy_(torch.rand(1, generator=generator) + 0.5)
    return model


@pytest.mark.parametrize("structure", [True, False])
def test_output_is_that_of_weights_moved_along_written_out_directions(structure):
    model, x = fill(adapted(structure=structure, seed=5)), torch.randn(4, 6, dtype=torch.float64)
    z, scales = parts_of(model)
    base = Two().double()
    with torch.no_grad():
        for name, layer in (("wide", base.wide), ("narrow", base.narrow)):
            parts = make_fastfood(len(z), layer.weight.numel(), derive(5, name), torch.float64)
            columns = torch.stack([fastfood(column, parts) for column in torch.eye(len(z), dtype=torch.float64)], 1)
            moved = (columns @ z.double()).view_as(layer.weight)
            layer.weight += moved * (scales[name].double() if structure else 1)
        torch.testing.assert_close(model(x.float()).double(), base(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("structure", "length"), [(True, 10), (False, 12)])
def test_exactly_d_numbers_train_and_only_they_are_saved(structure, length, tmp_path):
    model = fill(adapted(structure=structure))
    z, scales = parts_of(model)
    assert len(z) == length and len(scales) == (2 if structure else 0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 12
    model.save_pretrained(tmp_path)
    assert sum(tensor.numel() for tensor in load_file(tmp_path / "adapter_model.safetensors").values()) == 12
    x = torch.randn(2, 6)
    assert torch.equal(PeftModel.from_pretrained(Two(), tmp_path)(x), model(x))


def test_one_vector_moves_both_layers_and_a_scale_one_of_them():
    model = fill(adapted())
    layers = {name: model.base_model.model.get_submodule(name) for name in ("wide", "narrow")}
    before = {name: layer.get_delta_weight("default").clone() for name, layer in layers.items()}
    z, scales = parts_of(model)
    with torch.no_grad():
        z[0] += 1
    assert all(not torch.equal(layers[name].get_delta_weight("default"), before[name]) for name in layers)
    with torch.no_grad():
        z[0] -= 1
        scales["narrow"].mul_(2)
    torch.testing.assert_close(layers["narrow"].get_delta_weight("default"), 2 * before["narrow"])
    torch.testing.assert_close(layers["wide"].get_delta_weight("default"), before["wide"])


def test_reference_gradient_weighs_each_matrix_by_one_over_its_padded_size():
    x = torch.randn(5, 6)
    exact, reference = fill(adapted()), fill(adapted(reference_grad=True))
    assert torch.equal(exact(x), reference(x))
    grads = {}
    for name, model in (("exact", exact), ("reference", reference)):
        for layer in ("wide", "narrow"):
            moved = model.base_model.model.get_submodule(layer).moved("default")
            (grads[name, layer],) = torch.autograd.grad(moved.sum(), parts_of(model)[0])
    torch.testing.assert_close(grads["reference", "wide"] * 64, grads["exact", "wide"])
    torch.testing.assert_close(grads["reference", "narrow"] * 32, grads["exact", "narrow"])


def test_twenty_steps_with_an_optimizer_fit_a_target_and_leave_the_base_alone():
    model, x = adapted(d=40), torch.randn(32, 6)
    target = torch.randn(32, 3)
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(20):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    named = dict(model.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in before.items())
    z, scales = parts_of(model)
    assert (z != 0).all() and all(scale.item() != 1 for scale in scales.values())


def test_seed_decides_the_directions():
    one, same, other = (fill(adapted(seed=seed)) for seed in (1, 1, 2))
    x = torch.randn(2, 6)
    assert torch.equal(one(x), same(x)) and not torch.allclose(one(x), other(x))


@pytest.mark.parametrize("d", [1, 2])
def test_a_budget_that_the_scales_use_up_is_refused_with_their_number(d):
    with pytest.raises(UserError, match=f"d={d} is not above 2, the number of adapted matrices"):
        adapted(d=d)
    assert parts_of(adapted(d=d, structure=False))[0].numel() == d


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"d": 0}, "d=0"), ({"d": 2.5}, "d=2.5"), ({"d": True}, "d=True"), ({"bias": "some"}, "bias"),
        ({"generator": "old"}, "generator 'old'"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        SaidConfig(**settings)
