"""Compacter: Kronecker sums by hand, the paper's counts on shapes alone, the shared rule, norms, places, refusals."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from workbench.adapters import CompacterConfig, CompacterLayer
from workbench.adapters._bottleneck import Bottleneck, count
from workbench.adapters._phm import PHMLinear, kronecker_sum, phm_map, phm_map_full
from workbench.adapters.compacter import CompacterNorm
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Tower(nn.Module):
    """Two layers of width 16 with a norm between them."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x))))


def adapted(steps=0, **settings):
    torch.manual_seed(0)
    settings = {"width": 8, "target_modules": ["first", "second"], **settings}
    model = get_peft_model(Tower(), CompacterConfig(**settings))
    x = torch.randn(5, 16)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), torch.ones(5, 16)).backward()
        optimizer.step()
    return model, x


def block(model, name="first", adapter="default") -> Bottleneck:
    return getattr(model.base_model.model, name).blocks[adapter][0]


def test_one_product_by_hand():
    rule = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    s, t = torch.tensor([[[1.0]], [[5.0]]]), torch.tensor([[[10.0]], [[7.0]]])
    x = torch.tensor([4.0, 6.0])  # two blocks of one: y_b = Σ_a x_a C[a, b] · 10
    assert phm_map(x, rule, s, t).tolist() == [40.0, (4 * 2 + 6 * 3) * 10.0]


@pytest.mark.parametrize("rank", [1, 3])
def test_factored_map_equals_the_kronecker_sum(rank):
    n, i, o = 4, 12, 20
    rule, s, t = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((n, n, n), (n, i // n, rank), (n, rank, o // n))
    )
    dense = sum(torch.kron(rule[m], s[m] @ t[m]) for m in range(n))
    x = torch.randn(2, 3, i, dtype=torch.float64)
    torch.testing.assert_close(phm_map(x, rule, s, t), x @ dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(phm_map_full(x, rule, s @ t), x @ dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kronecker_sum(rule, s, t), dense, rtol=1e-12, atol=1e-12)


def test_hamilton_products_are_a_choice_of_the_rule():
    # C_m[a, b]: coefficient of basis b in (basis a) · (basis m); with 1 × 1 factors the map is q ↦ q · p
    table = (
        {(0, m): (m, 1) for m in range(4)} | {(a, 0): (a, 1) for a in range(4)} | {(a, a): (0, -1) for a in (1, 2, 3)}
    )
    table |= {(1, 2): (3, 1), (2, 1): (3, -1), (2, 3): (1, 1), (3, 2): (1, -1), (3, 1): (2, 1), (1, 3): (2, -1)}
    rule = torch.zeros(4, 4, 4)
    for (a, m), (b, sign) in table.items():
        rule[m, a, b] = sign
    q, p = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    product = phm_map(q, rule, torch.ones(4, 1, 1), p.view(4, 1, 1))
    assert product.tolist() == [-60.0, 12.0, 30.0, 24.0]


def test_with_one_block_it_is_a_rank_one_layer():
    layer = PHMLinear(6, 4, n=1, rule=nn.Parameter(torch.ones(1, 1, 1)))
    x = torch.randn(3, 6)
    torch.testing.assert_close(layer(x), x @ (layer.s[0] @ layer.t[0]) + layer.bias)
    assert torch.linalg.matrix_rank((layer.s[0] @ layer.t[0]).detach()) == 1


def test_forward_is_the_formula_of_the_paper():
    model, x = adapted(steps=3)
    with torch.no_grad():
        h = model.base_model.model.first.base_layer(x)
        b = block(model)
        down = h @ kronecker_sum(b.rule, b.down_s, b.down_t) + b.down_bias
        inner = 0.5 * down * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (down + 0.044715 * down**3)))
        expected = h + inner @ kronecker_sum(b.rule, b.up_s, b.up_t) + b.up_bias
        torch.testing.assert_close(model.base_model.model.first(x), expected, rtol=1e-5, atol=1e-6)


def t5_base():
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12}
    with torch.device("meta"):
        return T5ForConditionalGeneration(T5Config(vocab_size=32128, **sizes))


@pytest.mark.parametrize(("after", "expected"), [(["attention", "ffn"], 161_728), (["ffn"], 104_704)])
def test_published_counts_at_t5_base(after, expected):
    model = get_peft_model(t5_base(), CompacterConfig(after=after), low_cpu_mem_usage=True)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    full = sum(p.numel() for p in t5_base().parameters())
    assert round(100 * expected / full, 3) == {161_728: 0.073, 104_704: 0.047}[expected]


def test_counts_of_the_family_by_hand():
    d, k, n = 768, 24, 4
    assert count("compacter", d, k, d, n) == 816 + 1560
    assert count("dense", d, k, d) == 2 * d * k + k + d
    assert count("low_rank", d, k, d) == 2 * (d + k) + k + d
    assert count("phm", d, k, d, 12) == 2 * 12**3 + 2 * d * k // 12 + k + d


def test_one_rule_serves_every_adapter_and_its_gradient_is_the_sum():
    model, x = adapted(steps=2)
    rules = [name for name, _ in model.named_parameters() if name.endswith(".rule")]
    assert len(rules) == 1
    model.zero_grad()
    model(x).square().sum().backward()
    shared = block(model).rule.grad.clone()
    own, _ = adapted(share_rule=False)
    own.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name in ("first", "second"):
            block(own, name).rule.copy_(block(model).rule)
    own(x).square().sum().backward()
    summed = block(own, "first").rule.grad + block(own, "second").rule.grad
    torch.testing.assert_close(shared, summed, rtol=1e-4, atol=1e-6)
    before = [getattr(model.base_model.model, name)(x) for name in ("first", "second")]
    with torch.no_grad():
        block(model).rule.add_(1.0)
    after = [getattr(model.base_model.model, name)(x) for name in ("first", "second")]
    assert not any(torch.allclose(one, two) for one, two in zip(before, after, strict=True))


def test_every_adapter_name_has_its_own_rule_and_the_file_holds_it_once(tmp_path):
    model, x = adapted(steps=2)
    model.add_adapter("other", CompacterConfig(width=4, target_modules=["second"]))
    assert block(model, "second", "other").rule is not block(model).rule
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert [key for key in stored if key.endswith("rule")] == ["base_model.model.first.compacter_blocks.0.rule"]
    assert sum(t.numel() for t in stored.values()) == 64 + 2 * count("compacter", 16, 8, 16) + 32
    again = PeftModel.from_pretrained(Tower(), tmp_path)
    again.base_model.model.load_state_dict(
        {k: v for k, v in model.base_model.model.state_dict().items() if "other" not in k}
    )
    assert torch.equal(again(x), model(x))
    model.delete_adapter("other")
    model.add_adapter("other", CompacterConfig(width=4, target_modules=["second"]))
    assert block(model, "second", "other").rule.shape == (4, 4, 4)  # a deleted owner is not asked again


def test_norms_train_as_differences_and_can_be_left_alone():
    model, x = adapted(steps=3)
    norm = model.base_model.model.norm
    assert isinstance(norm, CompacterNorm)
    weight = norm.base_layer.weight + norm.compacter_weight["default"]
    bias = norm.base_layer.bias + norm.compacter_bias["default"]
    torch.testing.assert_close(norm(x), F.layer_norm(x, (16,), weight, bias))
    assert norm.base_layer.weight.eq(1).all()
    plain, _ = adapted(train_layer_norms=False)
    assert isinstance(plain.base_model.model.norm, nn.LayerNorm)


def test_start_is_near_the_base_or_exactly_there():
    near, x = adapted(steps=0)
    with near.disable_adapter():
        base = near(x)
    assert 0 < (near(x) - base).abs().max() < 1e-4
    exact, _ = adapted(init="zero")
    assert torch.equal(exact(x), base)


@pytest.mark.parametrize("kind", ["dense", "low_rank", "phm"])
def test_the_other_kinds_train_what_their_formula_says(kind):
    model, x = adapted(steps=3, kind=kind)
    config = model.peft_config["default"]
    expected = 2 * config.trainable_per_module(16, 16) + 32
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    with model.disable_adapter():
        base = model(x)
    assert not torch.allclose(model(x), base, atol=1e-2)


def test_it_finds_its_places_by_itself():
    from transformers import BertConfig, BertModel

    tiny = BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
    model = get_peft_model(BertModel(tiny), CompacterConfig(reduction=4, layers_to_transform=[1]))
    places = [name for name, module in model.named_modules() if isinstance(module, CompacterLayer)]
    block = "base_model.model.encoder.layer.1."
    assert places == [block + "attention.output.dense", block + "output.dense"]
    with pytest.raises(UserError, match=r"blocks of Tower are not known .* first, second"):
        get_peft_model(Tower(), CompacterConfig())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"n": 0}, "n=0"), ({"reduction": 2.5}, "reduction=2.5"), ({"width": 0}, "width=0"), ({"after": []}, "no place"),
        ({"after": ["fnn"]}, "did you mean ffn"), ({"kind": "compactor"}, "did you mean compacter"),
        ({"activation": "gelu_old"}, "gelu_new"), ({"init": "zeros"}, "did you mean zero"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_the_fix(settings, says):
    with pytest.raises(UserError, match=says):
        CompacterConfig(**settings)


def test_sizes_that_do_not_divide_name_the_nearest():
    with pytest.raises(
        UserError, match=r"n=4 does not divide the width of the bottleneck=6; the nearest that works is 8"
    ):
        adapted(width=6)
    with pytest.raises(UserError, match="n=3 does not divide the outputs of first=16"):
        adapted(n=3, width=6)
    with pytest.raises(UserError, match="leaves no width behind first"):
        adapted(width=None, reduction=32, kind="dense")
    with pytest.raises(UserError, match="nearest are first"):
        adapted(target_modules=["frist"])
    model = nn.Sequential()
    model.emb = nn.Embedding(8, 16)
    with pytest.raises(UserError, match="cannot adapt emb"):
        get_peft_model(model, CompacterConfig(width=8, target_modules=["emb"]))


def test_config_file_keeps_the_resolved_places(tmp_path):
    model, _ = adapted()
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(stored["target_modules"]) == ["first", "second"]
    assert stored["after"] == ["attention", "ffn"]
