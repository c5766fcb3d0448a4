import math

import numpy as np
import pytest
import torch

from workbench.data import Examples, Report
from workbench.errors import JobError, UserError
from workbench.evaluation import perplexity
from workbench.evaluation.nll import Scorer, evaluating
from workbench.evaluation.perplexity import cut, plan, tokenize

PEFT_ASKS_BY_THE_OLD_NAME = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LONG = "Call me Ishmael. Some years ago, never mind how long precisely, I thought I would sail about a little. " * 2


def own_nll(model, ids):
    """Σ nll of ids[1:] from the model's own logits in float64, which transformers' loss rounds to float32."""
    row = torch.tensor([ids])
    with torch.no_grad():
        output = model(input_ids=row, labels=row)
    total = torch.nn.functional.cross_entropy(output.logits[0, :-1], row[0, 1:], reduction="sum").item()
    assert output.loss.item() * (len(ids) - 1) == pytest.approx(total, rel=1e-6)
    return total


def test_windows_by_hand():
    assert cut(10, 5, 4) == [(0, 1, 5), (4, 5, 9), (5, 9, 10)]
    assert cut(10, 5, 2) == [(0, 1, 5), (2, 5, 7), (4, 7, 9), (5, 9, 10)]
    assert cut(3, 5, 4) == [(0, 1, 3)]
    assert cut(1, 5, 4) == []


@pytest.mark.parametrize("stride", [1, 3, 7])
def test_each_token_is_predicted_once_with_enough_context(stride):
    for length in range(2, 40):
        pieces = cut(length, 8, stride)
        predicted = [i for _, first, stop in pieces for i in range(first, stop)]
        assert predicted == list(range(1, length))
        assert all(stop - start == min(8, length) for start, _, stop in pieces)
        assert all(first - start >= 8 - stride for start, first, _ in pieces[1:])


def test_uniform_logits_give_the_vocabulary_size(build, tokenizer, text):
    flat = build()
    flat.lm_head.weight.data.zero_()
    found = perplexity(flat, tokenizer, text(LONG, LONG[:150]), window=16)
    for value in (found.value, found.low, found.high):
        assert value == pytest.approx(len(tokenizer), rel=1e-12)


def test_equals_transformers_own_loss_over_two_documents(model, tokenizer, text):
    texts = [LONG, LONG[20:110]]
    ids = [tokenizer(t)["input_ids"] for t in texts]
    found = perplexity(model, tokenizer, text(*texts), window=max(map(len, ids)))
    nll = [own_nll(model, row) for row in ids]
    np.testing.assert_allclose(found.documents["nll"], nll, rtol=1e-10)
    assert found.documents["tokens"].tolist() == [len(row) - 1 for row in ids]
    assert found.value == pytest.approx(math.exp(sum(nll) / (sum(map(len, ids)) - 2)), rel=1e-10)
    size = sum(len(t.encode()) - len(tokenizer.decode(row[:1]).encode()) for t, row in zip(texts, ids, strict=True))
    assert found.bits_per_byte == pytest.approx(sum(nll) / math.log(2) / size, rel=1e-10)
    assert found.documents["bytes"].sum() == size


def test_windows_equal_single_calls_with_exactly_that_context(model, tokenizer, text):
    ids = tokenizer(LONG)["input_ids"]
    found = perplexity(model, tokenizer, text(LONG), window=20, stride=6)
    expected = 0.0
    for start, first, stop in cut(len(ids), 20, 6):
        logits = model(input_ids=torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
        expected -= sum(logits[i - start - 1, ids[i]].item() for i in range(first, stop))
    assert found.documents["nll"].item() == pytest.approx(expected, rel=1e-10)
    assert math.isnan(found.low) and (found.window, found.stride, found.tokens) == (20, 6, len(ids) - 1)


def test_short_documents_are_padded_without_a_trace(model, tokenizer, text):
    short = ["Loomings.", "The Carpet-Bag!", "A bosom friend, and breakfast"]
    mixed = perplexity(model, tokenizer, text(LONG, *short), window=32).documents.set_index("group")
    for i, words in enumerate(short, 1):
        assert mixed.loc[f"d{i}", "nll"] == pytest.approx(own_nll(model, tokenizer(words)["input_ids"]), rel=1e-10)


def test_rows_of_one_document_count_as_one(model, tokenizer):
    rows = [{"text": LONG, "group": "a"}, {"text": LONG[5:], "group": "a"}, {"text": LONG[9:], "group": "b"}]
    found = perplexity(model, tokenizer, Examples("text", rows, "x", Report("x", 3, 3)), window=24)
    assert found.documents["group"].tolist() == ["a", "b"]


def test_a_subset_is_the_same_for_every_order_and_spreads_over_documents(model, tokenizer, chapters):
    few = perplexity(model, tokenizer, chapters, window=32, max_tokens=31 * 13)
    back = perplexity(model, tokenizer, chapters.with_rows(chapters.rows[::-1]), window=32, max_tokens=31 * 13)
    assert few.tokens == 31 * 13 and sorted(few.documents["tokens"]) == [62, 62, 62, 62, 62, 93]
    assert few.value == pytest.approx(back.value, rel=1e-12)
    windows = plan(tokenize(chapters, tokenizer), 32, 31, 31 * 13)
    assert len(set(windows)) == len(windows)


def test_a_subset_larger_than_the_text_is_the_whole(model, tokenizer, text):
    whole = perplexity(model, tokenizer, text(LONG, LONG[3:]), window=32)
    assert perplexity(model, tokenizer, text(LONG, LONG[3:]), window=32, max_tokens=10**6).value == pytest.approx(
        whole.value
    )


def test_bytes_of_split_characters_are_counted_once(model, tokenizer, text):
    words = "naïve “Pequod” — 鯨と船 " * 8
    found = perplexity(model, tokenizer, text(words), window=16)
    assert found.documents["bytes"].item() == len(words.encode()) - len("n")


def test_interval_is_over_documents(model, tokenizer, chapters):
    from workbench.evaluation import bootstrap_ratio

    found = perplexity(model, tokenizer, chapters, window=64)
    mean = bootstrap_ratio(found.documents["nll"], found.documents["tokens"], method="percentile", widen=True)
    assert (found.low, found.high) == (math.exp(mean.low), math.exp(mean.high)) and found.low < found.value < found.high


def test_only_answers_are_predicted_in_pairs(model, tokenizer):
    row = {"prompt": "Who are you?", "completion": "Ishmael, a sailor.", "group": "a"}
    found = perplexity(model, tokenizer, Examples("prompt-completion", [row], "x", Report("x", 1, 1)), window=64)
    learned = len(tokenizer("Ishmael, a sailor.<|end|>")["input_ids"])
    assert found.tokens == learned and math.isnan(found.bits_per_byte)


def test_model_with_capped_logits_is_scored_by_its_own_logits(tokenizer, text):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=2.0, initializer_range=0.5, max_position_embeddings=256,
    )  # fmt: skip
    capped = Gemma2ForCausalLM(config).double().eval()
    ids = tokenizer(LONG)["input_ids"]
    found = perplexity(capped, tokenizer, text(LONG), window=len(ids))
    assert found.documents["nll"].item() == pytest.approx(own_nll(capped, ids), rel=1e-10)


@PEFT_ASKS_BY_THE_OLD_NAME
@pytest.mark.parametrize("method", ["lora", "prompt", "prefix"])
def test_adapters_are_scored_as_transformers_scores_them(build, tokenizer, text, method):
    import peft

    config = {
        "lora": lambda: peft.LoraConfig(
            target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM"
        ),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    }[method]()
    adapted = peft.get_peft_model(build(), config).double().eval()
    ids = tokenizer(LONG)["input_ids"]
    row = torch.tensor([ids])
    logits = adapted(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -len(ids) :]
    expected = torch.nn.functional.cross_entropy(logits[:-1], row[0, 1:], reduction="sum").item()
    found = perplexity(adapted, tokenizer, text(LONG), window=len(ids))
    assert found.documents["nll"].item() == pytest.approx(expected, rel=1e-10)


def test_head_is_restored_and_mode_kept(build, tokenizer, text):
    model = build().train()
    perplexity(model, tokenizer, text(LONG), window=32)
    assert "forward" not in vars(model.lm_head) and model.training
    ids = torch.tensor([[5, 6, 7]])
    assert model(input_ids=ids).logits.shape == (1, 3, len(tokenizer))


def test_large_vocabulary_in_pieces_equals_the_whole(build):
    model = build(vocab_size=5000)
    ids = torch.randint(5000, (2, 30), generator=torch.Generator().manual_seed(0))
    wanted = torch.ones_like(ids, dtype=torch.bool)
    with evaluating(model):
        ours = Scorer(model).batch_nll(ids, wanted)
        theirs = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].mT, ids[:, 1:], reduction="none")
    torch.testing.assert_close(ours[:, 1:], theirs, rtol=1e-12, atol=1e-12)


def test_nan_weights_end_the_job_with_the_models_name(build, tokenizer, text):
    broken = build()
    broken.model.norm.weight.data[0] = math.nan
    with pytest.raises(JobError, match="rtn-2 gives logits that are not finite"):
        perplexity(broken, tokenizer, text(LONG), window=16, name="rtn-2")


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        (["", ""], {}, "has 2 rows, and none holds two tokens"),
        ([], {}, "has 0 rows"),
        (["Ahab", "the whale"], {"window": 200}, "shorter than one window of 200 tokens.*use window="),
        ([LONG], {"window": 1}, "use 2 or more"),
        ([LONG], {"window": 16, "stride": 16}, "give 1 to 15"),
        ([LONG], {"window": 16, "max_tokens": 0}, "give 1 or more"),
        ([LONG], {"window": 16, "max_tokens": 3}, "less than one window"),
        ([LONG * 9], {"window": 300}, "more than the 256"),
    ],
)
def test_bad_input_is_refused_with_a_fix(model, tokenizer, text, texts, settings, words):
    with pytest.raises(UserError, match=words):
        perplexity(model, tokenizer, text(*texts), **{"window": 16} | settings)


def test_foreign_tokenizer_and_labels_are_refused(build, tokenizer, text):
    with pytest.raises(UserError, match="beyond the 60 tokens"):
        perplexity(build(vocab_size=60), tokenizer, text(LONG), window=16)
    with pytest.raises(UserError, match="classification_accuracy"):
        perplexity(build(), tokenizer, text(LONG, kind="classification"), window=16)
