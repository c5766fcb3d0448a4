from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from workbench.models.bits import baselines, document_bits, unigram_bits, windows


def test_windows_by_hand():
    assert list(windows(10, 4, 2)) == [(0, 4, 1), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    assert list(windows(4, 4, 2)) == [(0, 4, 1)]
    assert list(windows(5, 4, 4)) == [(0, 4, 1), (4, 5, 4)] or list(windows(5, 4, 3)) == [(0, 4, 1), (3, 5, 4)]
    assert list(windows(1, 4, 2)) == []


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 7), (16, 5)])
def test_every_token_after_the_first_is_scored_once_with_enough_context(window, stride):
    for length in range(1, 60):
        scored = []
        for start, stop, first in windows(length, window, stride):
            assert stop - start <= window
            assert start < first  # something stands before the first scored token
            assert start == 0 or first - start >= window - stride
            scored += range(first, stop)
        assert scored == list(range(1, length))


class Bytes:
    """One token per byte, shifted by one: id 0 ends a text."""

    eos_token_id = 0

    def __call__(self, text, **options):
        return {"input_ids": [byte + 1 for byte in text.encode()]}

    def __len__(self):
        return 257


class Uniform:
    device = torch.device("cpu")

    def __call__(self, input_ids):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 257))


def test_a_model_that_knows_nothing_spends_log2_of_the_vocabulary():
    texts = ["abc", "a" * 50, "é", ""]
    bits = document_bits(Uniform(), Bytes(), texts, window=16, stride=8)
    assert bits == pytest.approx([math.log2(257) * n for n in (3, 50, 2, 0)])


def test_bits_equal_the_sum_over_one_long_pass_and_do_not_depend_on_the_batch(originals, tokenizer):
    model = originals["llama"][0].double()
    texts = ["Call me Ishmael.", "In the beginning God created the heaven.", "x"]
    together = document_bits(model, tokenizer, texts, window=64, stride=32)
    for text, bits in zip(texts, together, strict=True):
        ids = torch.tensor([[0, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            scores = model(input_ids=ids).logits.log_softmax(-1)
        byhand = -sum(scores[0, i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1)) / math.log(2)
        assert bits == pytest.approx(byhand, rel=1e-6)
        assert document_bits(model, tokenizer, [text], window=64, stride=32)[0] == pytest.approx(bits, rel=1e-6)
    originals["llama"][0].float()


def test_unigram_by_hand():
    # "aab" seen, alphabet of 4: p(a) = 3/7, p(c) = 1/7
    assert unigram_bits(Counter("aab"), Counter("ac"), 4) == pytest.approx(-math.log2(3 / 7) - math.log2(1 / 7))


def test_baselines_rank_as_they_must_on_repeated_text():
    train = ["the whale " * 40 + "and the sea. " * 20]
    held_out = ["the whale and the sea. " * 30]
    found = baselines(train, held_out, Bytes())
    assert found["gzip"] < found["unigram_bytes"] < 8
    assert found["xz_primed"] <= found["xz"]
    assert found["unigram_tokens"] == pytest.approx(found["unigram_bytes"], rel=0.01)
