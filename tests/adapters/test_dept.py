"""DePT: the formula, budgets, positions under padding and caching, prompt tuning as a special case, refusals."""

import pytest
import torch
from peft import PeftModel, PromptTuningConfig, TaskType, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from workbench.adapters import DeptConfig
from workbench.adapters.dept import equal_budget, param_groups
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
TINY = {"num_virtual_tokens": 3, "r": 4, "max_length": 16}


def llama(cls=LlamaForCausalLM, **sizes):
    torch.manual_seed(0)
    return cls(
        LlamaConfig(**{**SIZES, "max_position_embeddings": 32, "pad_token_id": 0, "eos_token_id": 1, **sizes})
    ).eval()


def gpt2():
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 32, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).eval()


def adapted(base=None, disturbed=True, task_type=TaskType.CAUSAL_LM, **settings):
    model = get_peft_model(base or llama(), DeptConfig(**{**TINY, **settings}, task_type=task_type)).eval()
    return disturb(model) if disturbed else model


def disturb(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "dept_" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * (0.01 if "prompt" in name else 0.5))
    return model


def ids(rows=2, length=6):
    return torch.randint(2, 64, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, tokens, **kwargs):
    return model(input_ids=tokens, **kwargs).logits


def parts(model):
    layer = model.base_model.layer
    return layer.prompt(), layer.dept_A["default"], layer.dept_B["default"]


def test_input_is_the_formula_of_the_paper():
    model, tokens = adapted(max_length=4), ids()
    prompt, a, b = parts(model)
    with torch.no_grad():
        e = llama().model.embed_tokens(tokens)
        e[:, :4] += 8.0 / 4**0.5 * (a @ b)  # alpha/√r; positions 4 and 5 are beyond s
        expected = llama()(inputs_embeds=torch.cat([prompt.expand(2, -1, -1), e], 1)).logits
    got = logits(model, tokens)
    assert got.shape == (2, 6, 64)
    torch.testing.assert_close(got, expected[:, 3:], rtol=1e-5, atol=1e-5)
    embedded = llama().model.embed_tokens(tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=embedded).logits, got, rtol=1e-5, atol=1e-5)


def test_without_a_prompt_it_starts_as_the_base_model():
    tokens = ids()
    assert torch.equal(logits(adapted(num_virtual_tokens=0, disturbed=False), tokens), logits(llama(), tokens))


def test_without_a_pair_it_is_peft_prompt_tuning():
    ours, tokens = adapted(r=0), ids()
    theirs = get_peft_model(llama(), PromptTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM)).eval()
    theirs.prompt_encoder["default"].embedding.weight.data.copy_(ours.base_model.layer.prompt())
    torch.testing.assert_close(logits(ours, tokens), logits(theirs, tokens)[:, 3:], rtol=1e-6, atol=1e-6)
    loss = [m(input_ids=tokens, labels=tokens).loss.item() for m in (ours, theirs)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)


@pytest.mark.parametrize(("m", "r"), [(20, 60), (40, 45), (60, 30), (80, 15), (100, 0)])
def test_published_splits_train_76_800(m, r):
    assert DeptConfig(num_virtual_tokens=m, r=r, max_length=256).trainable_per_module(32128, 768) == 76_800
    if r:
        assert equal_budget(100, m, 768, 256) == r


def test_budgets_that_cannot_be_met_are_refused():
    with pytest.raises(UserError, match="m=100 prompt tokens are not fewer"):
        equal_budget(100, 100, 768, 256)
    with pytest.raises(UserError, match="fewer than rank one costs"):
        equal_budget(100, 99, 768, 256)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("task_type", [TaskType.CAUSAL_LM, None])
def test_greedy_generation_equals_step_by_step_with_left_padding(make, task_type):
    model = adapted(make(), task_type=task_type)
    tokens = ids(2, 5)
    tokens[0, :2] = 0
    mask = (tokens != 0).long()
    settings = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        made = model.generate(input_ids=tokens, **settings)
    assert made.shape == (2, 11) and torch.equal(made[:, :5], tokens)
    for row, first in ((0, 2), (1, 0)):
        for t in range(5, 11):
            alone = logits(model, made[row : row + 1, first:t])[:, -1]
            alone[:, 1] = -1e9  # the end token, which min_new_tokens forbids
            assert alone.argmax().item() == made[row, t]


def test_the_reference_changes_the_prompts_text_only_while_generating():
    tokens, settings = ids(1, 5), {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    with torch.no_grad():
        every = adapted().generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **settings)
        model = adapted(generation="prefill")
        prefill = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **settings)
    assert torch.equal(every[:, :6], prefill[:, :6])  # the first new token has seen the same
    prompt, a, b = parts(model)
    seen = tokens
    for _ in range(8):
        with torch.no_grad():
            e = llama().model.embed_tokens(seen)
            e[:, :5] += 8.0 / 2 * (a @ b)[:5]
            last = llama()(inputs_embeds=torch.cat([prompt[None], e], 1)).logits[:, -1]
        last[:, 1] = -1e9
        seen = torch.cat([seen, last.argmax(-1, keepdim=True)], 1)
    assert torch.equal(prefill, seen)


def test_a_classifier_finds_the_last_real_token_under_right_padding():
    base = llama(LlamaForSequenceClassification, num_labels=4)
    model = adapted(base, task_type=TaskType.SEQ_CLS)
    short = ids(1, 4)
    padded = torch.cat([short, torch.zeros(1, 3, dtype=torch.long)], 1)
    got = logits(model, padded, attention_mask=(padded != 0).long())
    torch.testing.assert_close(got, logits(model, short), rtol=1e-4, atol=1e-5)


def test_an_encoder_and_an_encoder_decoder_read_the_prompt_too():
    torch.manual_seed(0)
    bert = BertForSequenceClassification(BertConfig(**SIZES, max_position_embeddings=32, num_labels=3)).eval()
    tokens = ids()
    before = logits(bert, tokens)
    model = adapted(bert, task_type=TaskType.SEQ_CLS)
    after = logits(model, tokens, token_type_ids=torch.zeros_like(tokens))
    assert after.shape == before.shape and not torch.equal(after, before)
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
    t5 = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, dropout_rate=0.0)).eval()
    model = adapted(t5, task_type=TaskType.SEQ_2_SEQ_LM)
    target = ids(2, 3)
    model(input_ids=tokens, labels=target).loss.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "dept_" in n)
    made = model.generate(input_ids=tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    for t in range(1, 4):
        step = model(input_ids=tokens, decoder_input_ids=made[:, :t]).logits[:, -1]
        step[:, 1] = -1e9
        assert torch.equal(step.argmax(-1), made[:, t])


def test_prompt_moves_faster_by_the_ratio_and_groups_undo_it():
    model = adapted(disturbed=False, prompt_init="random", learning_rate_ratio=50.0)
    layer = model.base_model.layer
    before = layer.prompt().detach().clone()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(input_ids=ids(), labels=ids()).loss.backward()
    optimizer.step()
    moved = (layer.prompt() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 50e-3), rtol=0.02, atol=0)
    groups = param_groups(model, 0.3, 5e-3)
    assert [group["lr"] for group in groups] == [0.3 / 50, 5e-3]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for group in groups for p in group["params"]) == trained


def test_prompt_starts_from_an_instruction():
    model = adapted(disturbed=False, prompt_init="ids", init_ids=[7, 9])
    expected = llama().model.embed_tokens.weight[[7, 9, 7]]
    torch.testing.assert_close(model.base_model.layer.prompt(), expected)


def test_two_prompts_stand_one_after_the_other(tmp_path):
    model, tokens = adapted(), ids()
    one = logits(model, tokens)
    model.add_adapter("other", DeptConfig(num_virtual_tokens=2, r=3, max_length=8))
    assert torch.equal(logits(model, tokens), one)
    model.base_model.set_adapter(["default", "other"])
    assert model.base_model.layer.prompt_length() == 5
    assert not torch.allclose(logits(model, tokens), one, atol=1e-3)
    model.set_adapter("default")
    model.save_pretrained(tmp_path, selected_adapters=["default"], save_embedding_layers=False)
    assert torch.equal(logits(PeftModel.from_pretrained(llama(), tmp_path), tokens), one)
    base = model.unload()
    assert torch.equal(logits(base, tokens), logits(llama(), tokens))


def test_an_error_inside_leaves_the_model_usable():
    model, tokens = adapted(), ids()
    one = logits(model, tokens)
    with pytest.raises(UserError, match="31 tokens and a prompt of 3 need 34 positions, the model has 32"):
        logits(model, ids(1, 31))
    broken = model.base_model.model.model.layers[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(model, tokens)
    broken.remove()
    assert torch.equal(logits(model, tokens), one)
    plain = model.base_model.model.model.embed_tokens(tokens)
    assert torch.equal(plain, llama().model.embed_tokens(tokens))  # outside a pass it is the plain embedding


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_virtual_tokens": -1}, "num_virtual_tokens=-1"), ({"r": 1.5}, "r=1.5"), ({"max_length": 0}, "max_length=0"),
        ({"num_virtual_tokens": 0, "r": 0}, "nothing to train"), ({"alpha": 0.0}, "alpha=0.0"),
        ({"prompt_init": "vocabulary"}, "did you mean vocab"), ({"prompt_init": "ids"}, "belong together"),
        ({"generation": "prefil"}, "did you mean prefill"), ({"learning_rate_ratio": 0.0}, "learning_rate_ratio"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_with_the_fix(settings, says):
    with pytest.raises(UserError, match=says):
        DeptConfig(**settings)


def test_models_without_room_or_without_tokens_are_refused():
    from transformers import ViTConfig, ViTModel

    with pytest.raises(UserError, match="leaves no room in a model of 32 positions"):
        adapted(num_virtual_tokens=32)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8))
    with pytest.raises(UserError, match="has no token embedding"):
        get_peft_model(vit, DeptConfig(**TINY))
    with pytest.raises(UserError, match="one number per token"):
        logits(adapted(), ids(), attention_mask=torch.ones(2, 1, 6, 6))
