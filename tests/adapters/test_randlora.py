"""RandLoRA: formula and rank measured, peft's own class as the judge, its three faults mended, size of the file."""

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, RandLoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from workbench.adapters import WbRandLoraConfig
from workbench.adapters.randlora import delta_ranks, randlora_delta, rank_for, shared_pair, trained
from workbench.errors import UserError


class Tower(nn.Module):
    """A wide, a tall and a second wide layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.tall, self.again = nn.Linear(24, 10), nn.Linear(10, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.again(torch.tanh(self.tall(torch.tanh(self.wide(x)))))


def adapted(steps=3, **settings):
    model = get_peft_model(
        Tower(), WbRandLoraConfig(**{"r": 4, "target_modules": ["wide", "tall", "again"], **settings})
    )
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), torch.ones(6, 10)).backward()
        optimizer.step()
    return model, x


def layer(model, name="wide"):
    return getattr(model.base_model.model, name)


def test_sum_by_hand():
    b, lam = torch.tensor([[[1.0], [2.0]], [[0.0], [1.0]]]), torch.tensor([[3.0], [1.0]])
    a, gamma = torch.tensor([[1.0, 10.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    # first product: 3·[1, 2]ᵀ[1, 10]·diag(1, 0); second: [0, 1]ᵀ[1, 10]·diag(2, 1)
    assert randlora_delta(b, lam, a, gamma).tolist() == [[3.0, 0.0], [6.0 + 2.0, 10.0]]


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_delta_and_branch_are_the_formula(name):
    model, _ = adapted()
    held = layer(model, name)
    lam, gamma = held.wb_randlora_lambda["default"].detach(), held.wb_randlora_gamma["default"].detach()
    a, b = held.pair("default")
    assert (lam.shape, gamma.shape, a.shape, b.shape) == ((3, 4), (3, 10), (4, 10), (24, 12))
    full = 2 / math.sqrt(3) * randlora_delta(b.view(24, 3, 4).transpose(0, 1), lam, a, gamma)
    expected = full if name == "tall" else full.T
    torch.testing.assert_close(held.delta("default"), expected, rtol=1e-4, atol=1e-6)
    x = torch.randn(5, held.in_features)
    torch.testing.assert_close(held(x), held.base_layer(x) + x @ expected.T, rtol=1e-4, atol=1e-5)


def stock(**settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = RandLoraConfig(**{"r": 4, "target_modules": ["wide", "tall"], "save_projection": False, **settings})
        return get_peft_model(Tower(), config)


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_pefts_class_computes_the_same_from_the_same_tensors(name):
    theirs, (ours, _) = stock(randlora_alpha=80), adapted(scale="peft")
    own, other = layer(ours, name), layer(theirs, name)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        lam, gamma = torch.randn(4, 3, generator=generator), torch.randn(3, 10, generator=generator)
        other.randlora_lambda["default"].copy_(lam)
        other.randlora_gamma["default"].copy_(gamma)
        own.wb_randlora_lambda["default"].copy_(lam.T)
        own.wb_randlora_gamma["default"].copy_(gamma)
        a = other.randlora_A["default"][:, 0, :10].float()
        # theirs pairs column j·r + k of B with row k·n + j of A: the same map with B's columns in another order
        b = other.randlora_B["default"][:24, :3].float().flatten(1)
        order = torch.tensor([k * 3 + j for j in range(3) for k in range(4)])
        own.wb_randlora_pair["default"] = SimpleNamespace(a=a, b=b[:, order])
    torch.testing.assert_close(own.delta("default"), other.get_delta_weight("default").float(), rtol=1e-4, atol=1e-4)


def test_rank_is_r_while_gammas_are_equal_and_full_once_they_differ():
    model, _ = adapted(steps=0)
    assert {rank for rank, _ in delta_ranks(model).values()} == {0}
    with torch.no_grad():
        for name in ("wide", "tall", "again"):
            layer(model, name).wb_randlora_lambda["default"].normal_()
    assert {rank for rank, _ in delta_ranks(model).values()} == {4}
    with torch.no_grad():
        for name in ("wide", "tall", "again"):
            layer(model, name).wb_randlora_gamma["default"].normal_()
    measured = delta_ranks(model)
    assert {rank for rank, _ in measured.values()} == {10}
    assert all(4 < effective <= 10 for _, effective in measured.values())


def test_first_step_moves_lambda_only_and_the_second_everything():
    model, x = adapted(steps=0)
    model(x).square().sum().backward()
    assert not any(p.grad.any() for n, p in model.named_parameters() if "gamma" in n)
    assert all(p.grad.all() for n, p in model.named_parameters() if "lambda" in n)
    model, _ = adapted(steps=2)
    assert all((p != 1 / 10).all() for n, p in model.named_parameters() if "gamma" in n)


def test_published_count_at_llama_3_2_3b():
    # 28 layers, r = 32: q is 3072 × 3072, v is 1024 × 3072 (peft's published comparison)
    assert 28 * (trained(3072, 3072, 32) + trained(3072, 1024, 32)) == 9_289_728


def test_scale_of_the_paper_and_of_peft():
    assert WbRandLoraConfig(r=32).scaling(96) == pytest.approx(2 / math.sqrt(96))
    assert WbRandLoraConfig(r=32, scale="peft").scaling(96) == RandLoraConfig().randlora_alpha / RandLoraConfig().r
    assert 20 / WbRandLoraConfig(r=32).scaling(96) == pytest.approx(98, abs=0.1)


def test_bases_have_variance_one_and_the_wanted_zeros():
    for basis, zeros in (("uniform", 0.0), ("sparse", 2 / 3), ("very_sparse", 1 - 2 / 10)):
        pair = shared_pair(0, basis, 10, 100, 200, torch.device("cpu"))
        assert pair.b.var().item() == pytest.approx(1, abs=0.02)
        assert (pair.b == 0).float().mean().item() == pytest.approx(zeros, abs=0.01)
    small, large = (shared_pair(0, "uniform", 10, 100, big, torch.device("cpu")) for big in (120, 200))
    assert torch.equal(small.b, large.b[:120])


def test_layers_share_one_pair_and_the_file_has_no_bases(tmp_path):
    model, x = adapted()
    pairs = {id(layer(model, name).wb_randlora_pair["default"]) for name in ("wide", "tall", "again")}
    assert len(pairs) == 1
    copied = copy.deepcopy(model)
    assert {id(layer(copied, name).wb_randlora_pair["default"]) for name in ("wide", "tall")} == pairs
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == 3 * trained(24, 10, 4)
    torch.manual_seed(9)
    again = PeftModel.from_pretrained(Tower(), tmp_path)
    assert torch.equal(again(x), model(x))


def test_two_adapters_of_different_rank_run_here_and_fail_in_pefts_class():
    model, x = adapted()
    one = model(x)
    model.add_adapter("other", WbRandLoraConfig(r=2, target_modules=["wide", "tall"]))
    assert torch.equal(model(x), one)
    model.set_adapter("other")
    model(x).sum().backward()
    theirs = stock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.add_adapter("other", RandLoraConfig(r=2, target_modules=["wide", "tall"], save_projection=False))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):  # once this passes, peft is mended
        theirs(x)


def test_stock_saves_the_bases_once_per_layer_and_ours_not_at_all():
    from peft import get_peft_model_state_dict

    theirs = stock(save_projection=True)
    bases = sum(t.numel() for key, t in get_peft_model_state_dict(theirs).items() if "_A" in key or "_B" in key)
    one = sum(t.numel() for t in (*theirs.base_model.randlora_A.values(), *theirs.base_model.randlora_B.values()))
    assert bases == 3 * one  # two layers and the model
    ours, _ = adapted(steps=0)
    assert not any("pair" in key for key in get_peft_model_state_dict(ours))


def test_a_budget_finds_its_rank():
    shapes = [(64, 64)] * 4
    assert rank_for(shapes, 4 * trained(64, 64, 9)) == 9
    with pytest.raises(UserError, match="cannot train as few as 100"):
        rank_for(shapes, 100)


def test_a_rank_that_leaves_one_product_is_reported():
    with pytest.warns(UserWarning, match="one product, rank 10, which LoRA does"):
        adapted(steps=0, r=10)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 0}, "r=0"), ({"scale": "papers"}, "did you mean paper"), ({"basis": "dense"}, "uniform"),
        ({"alpha": 0.0}, "alpha=0.0"), ({"bias": "randlora_only"}, "wb_randlora_only"), ({"generator": "x"}, "generator 'x'"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_the_fix(settings, says):
    with pytest.raises(UserError, match=says):
        WbRandLoraConfig(**settings)


def test_layers_that_are_not_linear_are_refused():
    model = nn.Sequential()
    model.conv, model.emb = nn.Conv2d(3, 4, 3), nn.Embedding(4, 8)
    for name in ("conv", "emb"):
        with pytest.raises(UserError, match=f"cannot adapt {name}"):
            get_peft_model(model, WbRandLoraConfig(r=2, target_modules=[name]))
