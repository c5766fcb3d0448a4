"""The unified view: the prefix identity, LoRA as a row of the table, starts, counts, places, refusals."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from workbench.adapters import UnifiedConfig
from workbench.adapters._heads import HeadBlock, gated_parallel
from workbench.adapters.unified_view import Delta, designs, places, table
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}


def llama(implementation="sdpa", **sizes):
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 32, **sizes})
    config._attn_implementation = implementation
    return LlamaForCausalLM(config).eval()


def unified(model=None, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model or llama(), UnifiedConfig(**settings)).eval()


def ids(rows=2, length=6):
    return torch.randint(2, 64, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, tokens=None, **kwargs):
    return model(input_ids=ids() if tokens is None else tokens, **kwargs).logits


def disturb(model, scale=0.3):
    """Random values in every trained tensor."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return model


def test_gate_by_hand():
    one = torch.ones(1, 1, 1, 1)
    # one key with logit 1, one prefix key with logit 2: λ = e² / (e + e²)
    out, gate = gated_parallel(one, one, 3 * one, 2 * torch.ones(1, 1, 1), 5 * torch.ones(1, 1, 1), scaling=1.0)
    expected = torch.sigmoid(torch.tensor(1.0)).item()
    assert gate.item() == pytest.approx(expected)
    assert out.item() == pytest.approx(3 * (1 - expected) + 5 * expected)


@pytest.mark.parametrize("masked", [None, "causal", "padding"])
def test_attention_over_prefix_and_keys_is_the_gated_sum(masked):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    pk, pv = (torch.randn(3, 2, 4, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    if masked == "causal":
        mask = mask.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), float("-inf"))
    elif masked == "padding":
        mask[0, ..., :2] = float("-inf")
    keys, values = (torch.cat([p.expand(2, -1, -1, -1), x], 2) for p, x in ((pk, k), (pv, v)))
    weights = (q @ keys.transpose(-1, -2) / 2 + torch.nn.functional.pad(mask, (2, 0))).softmax(-1)
    torch.testing.assert_close(gated_parallel(q, k, v, pk, pv, mask)[0], weights @ values, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_in_a_model_the_prefix_gives_the_gated_sum_under_causal_and_padding_masks(implementation):
    model = disturb(unified(llama(implementation), design="prefix", l=3), 1.0)
    tokens, mask = ids(), torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    seen = []
    attention = model.base_model.model.model.layers[0].self_attn
    hook = attention.o_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    rotated = {}
    import transformers.models.llama.modeling_llama as source

    original = source.apply_rotary_pos_emb

    def keep(q, k, *args, **kwargs):
        out = original(q, k, *args, **kwargs)
        rotated.setdefault("qk", out)
        return out

    source.apply_rotary_pos_emb = keep
    try:
        logits(model, tokens, attention_mask=mask)
    finally:
        source.apply_rotary_pos_emb = original
        hook.remove()
    q, k = rotated["qk"]
    with torch.no_grad():
        x = model.base_model.model.model.embed_tokens(tokens)
        value = (
            attention.v_proj(model.base_model.model.model.layers[0].input_layernorm(x)).view(2, 6, 2, 8).transpose(1, 2)
        )
        block = attention.q_proj.blocks["default"][0]
        allowed = torch.ones(6, 6, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
        additive = torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
        both = [t.repeat_interleave(2, 1) for t in (k, value)]
        prefix = [p.repeat_interleave(2, 0) for p in (block.key, block.value)]
        expected, _ = gated_parallel(q, *both, *prefix, additive)
    real = mask.bool()
    got = seen[0].view(2, 6, 4, 8)[real]
    torch.testing.assert_close(got, expected.transpose(1, 2)[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("design", ["mam", "multihead", "prefix"])
def test_padding_on_the_left_changes_nothing_and_both_kernels_agree(design):
    model, eager = (disturb(unified(llama(kind), design=design, l=3, r=4)) for kind in ("sdpa", "eager"))
    tokens = ids(1)
    plain = logits(model, tokens)
    torch.testing.assert_close(logits(eager, tokens), plain, rtol=1e-4, atol=1e-5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), tokens], 1)
    mask = (torch.arange(9) >= 3).long()[None]
    position = (mask.cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(
        logits(model, padded, attention_mask=mask, position_ids=position)[:, 3:], plain, rtol=1e-4, atol=1e-5
    )


def test_generation_with_a_cache_equals_step_by_step():
    model = disturb(unified(design="mam", l=3, r=4))
    tokens = ids()
    with torch.no_grad():
        made = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
        )
    for t in range(4):
        last = logits(model, made[:, : 6 + t])[:, -1].clone()
        last[:, 2] = -1e9  # the end token, which min_new_tokens forbids
        assert torch.equal(last.argmax(-1), made[:, 6 + t])


def test_lora_is_a_row_of_the_table():
    ours = disturb(unified(design="lora", r=3, s=2.0))
    lora = get_peft_model(llama(), LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"])).eval()
    for layer, other in zip(ours.base_model.model.model.layers, lora.base_model.model.model.layers, strict=True):
        for name in ("q_proj", "v_proj"):
            block, target = getattr(layer.self_attn, name).blocks["default"][0], getattr(other.self_attn, name)
            target.lora_A["default"].weight.data.copy_(block.down_weight.data)
            target.lora_B["default"].weight.data.copy_(block.up_weight.data)
    torch.testing.assert_close(logits(ours), logits(lora), rtol=1e-6, atol=1e-6)
    apart = logits(ours)
    ours.merge_adapter()  # the one form that merges
    torch.testing.assert_close(logits(ours), apart, rtol=1e-4, atol=1e-5)
    ours.unmerge_adapter()
    torch.testing.assert_close(logits(ours), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("design", ["parallel", "scaled_parallel", "lora", "parallel_attention"])
def test_zero_up_starts_exactly_as_the_base(design):
    assert torch.equal(logits(unified(design=design, r=4)), logits(llama()))


def test_the_scale_acts_on_the_bias_too():
    model = unified(design="scaled_parallel", r=4, s=3.0)
    block = model.base_model.model.model.layers[0].mlp.down_proj.blocks["default"][0]
    with torch.no_grad():
        block.up_bias.fill_(1.0)
        assert torch.equal(block(torch.zeros(1, 32)), torch.full((1, 32), 3.0))


def test_parallel_reads_the_blocks_input_and_sequential_its_output():
    model = disturb(unified(design="parallel", r=4))
    mlp = model.base_model.model.model.layers[0].mlp
    x = torch.randn(1, 3, 32)
    with torch.no_grad():
        block, got = mlp.down_proj.blocks["default"][0], mlp(x)
        with model.disable_adapter():
            h = mlp(x)
        expected = h + torch.relu(x @ block.down_weight.T + block.down_bias) @ block.up_weight.T + block.up_bias
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    model = disturb(unified(design="pfeiffer", r=4))
    mlp = model.base_model.model.model.layers[0].mlp
    with torch.no_grad():
        block, got = mlp.down_proj.blocks["default"][0], mlp(x)
        expected = h + torch.relu(h @ block.down_weight.T + block.down_bias) @ block.up_weight.T + block.up_bias
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_parallel_in_attention_is_added_before_the_output_layer():
    model = disturb(unified(design="parallel_attention", r=4))
    layer = model.base_model.model.model.layers[0]
    seen = {}
    hooks = [
        layer.self_attn.o_proj.base_layer.register_forward_pre_hook(lambda m, a: seen.setdefault("inside", a[0])),
        layer.self_attn.o_proj.register_forward_pre_hook(lambda m, a: seen.setdefault("heads", a[0])),
        layer.self_attn.q_proj.register_forward_pre_hook(lambda m, a: seen.setdefault("x", a[0])),
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        torch.testing.assert_close(
            seen["inside"], seen["heads"] + layer.self_attn.o_proj.blocks["default"][0](seen["x"])
        )


def test_mam_counts_on_shapes_alone():
    with torch.device("meta"):
        roberta = BertModel(BertConfig())  # RoBERTa-base has these shapes: d = 768, 12 layers
    settings = UnifiedConfig(design="mam", l=16, r=16, s=2.0)
    assert settings.trainable_in(roberta) == 2 * 16 * 768 * 12 + (2 * 16 * 768 + 16 + 768) * 12
    assert 0.004 < settings.trainable_in(roberta) / 125e6 < 0.006  # the paper's 0.5 %


@pytest.mark.parametrize("design", designs(1, 1, 1.0))
def test_counts_and_two_adapters_of_every_design(design, tmp_path):
    model = unified(design=design, l=3, r=4)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == model.peft_config["default"].trainable_in(
        llama()
    )
    disturb(model)
    one = logits(model)
    model.add_adapter("other", UnifiedConfig(design="mam", l=2, r=3))
    assert torch.equal(logits(model), one)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path).eval()), one)
    copied = disturb(copy.deepcopy(model), 0.5)
    assert torch.equal(logits(model), one) and not torch.equal(logits(copied), one)
    base = model.unload()
    assert torch.equal(logits(base), logits(llama()))
    assert base.model.layers[0].self_attn.config is base.config


def test_rows_without_a_prefix_mix_in_one_batch():
    model = disturb(unified(design="scaled_parallel", r=4))
    model.add_adapter("other", UnifiedConfig(design="houlsby", r=3))
    model.set_adapter("other")
    disturb(model)
    mixed = logits(model, adapter_names=["default", "other"])
    for row, name in enumerate(("default", "other")):
        model.set_adapter(name)
        torch.testing.assert_close(mixed[row], logits(model)[row], rtol=1e-4, atol=1e-5)


def test_own_rows_and_the_table_they_print():
    rows = [
        Delta("multihead", "head", 2, inner_norm=True),
        Delta("bottleneck", "attention", 3, read="output", init="bert"),
    ]
    config = UnifiedConfig(design="own", deltas=rows)
    assert [row["changes"] for row in table(config)] == ["head", "attention"]
    assert table(UnifiedConfig(s=4.0))[1] == {
        "Δh": "f(x W_down) W_up", "reads": "parallel", "changes": "ffn", "combines": "h + 4 Δh",
    }  # fmt: skip
    model = unified(design="own", deltas=rows)
    assert any(isinstance(module, HeadBlock) for module in model.modules())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == config.trainable_in(llama())
    assert not torch.allclose(logits(disturb(model)), logits(llama()), atol=1e-2)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("bottleneck", "ffn", 2, "input", "gated"), "combine='gated' does not go with form='bottleneck'.*add or scaled"),
        (("prefix", "head", 2, "output", "gated"), "read='output' does not go with form='prefix'"),
        (("low_rank", "ffn", 2), "at='ffn' does not go"), (("bottleneck", "ffn", 0), "size=0"),
        (("bottleneck", "ffn", 2, "input", "add", 4.0), "scale=4.0 needs combine='scaled'"),
        (("bottelneck", "ffn", 2), "did you mean bottleneck"),
    ],
)  # fmt: skip
def test_rows_outside_the_table_are_refused(values, says):
    with pytest.raises(UserError, match=says):
        Delta(*values)


def test_settings_that_have_no_place_are_refused():
    with pytest.raises(UserError, match="did you mean mam"):
        UnifiedConfig(design="man")
    with pytest.raises(UserError, match="design='own'"):
        UnifiedConfig(design="mam", deltas=[])
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, n_positions=32))
    with pytest.raises(UserError, match="no separate v projection"):
        places(tiny, Delta("low_rank", "v", 2))
    with pytest.raises(UserError, match="leave target_modules out"):
        unified(design="mam", target_modules=["q_proj"])
