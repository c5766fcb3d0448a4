import random

import pytest
import torch

from workbench.data import Examples, Report, calibration, load
from workbench.errors import UserError


def make(texts):
    rows = [{"text": text, "group": f"g{n}"} for n, text in enumerate(texts)]
    return Examples("text", rows, "made", Report("made", len(rows), len(rows)))


def test_windows_are_real_disjoint_pieces_of_documents(tokenizer):
    examples = load("moby-dick", limit=10)
    found = calibration(examples, tokenizer, samples=24, window=64, seed=1)
    assert len(found) == 24 and all(ids.shape == (1, 64) and ids.dtype == torch.int64 for ids in found)
    documents = [row["text"] for row in examples.rows]
    pieces = [tokenizer.decode(ids[0]).strip("�") for ids in found]
    assert all(any(piece in document for document in documents) for piece in pieces)
    assert len(set(pieces)) == 24
    spread = {next(n for n, d in enumerate(documents) if piece in d) for piece in pieces}
    assert len(spread) == 10


def test_a_seed_repeats_and_another_differs_whatever_the_order(tokenizer):
    examples = load("moby-dick", limit=10)
    shuffled = examples.with_rows(random.Random(0).sample(examples.rows, 10))
    first = torch.cat(calibration(examples, tokenizer, 8, 32, seed=5))
    assert torch.equal(first, torch.cat(calibration(shuffled, tokenizer, 8, 32, seed=5)))
    assert not torch.equal(first, torch.cat(calibration(examples, tokenizer, 8, 32, seed=6)))


def test_one_long_document_gives_other_windows_for_another_seed(tokenizer):
    book = load("moby-dick")
    one = book.with_rows(book.rows[5:6])
    first, other = (torch.cat(calibration(one, tokenizer, 4, 48, seed=seed)) for seed in (1, 2))
    assert not torch.equal(first, other)


def test_short_texts_are_joined_with_the_end_token(tokenizer):
    found = calibration(make(["Call me Ishmael."] * 40), tokenizer, 4, 32)
    assert all(tokenizer.eos_token_id in ids for ids in found)
    assert tokenizer.decode(found[0][0]).startswith("Call me Ishmael.<|im_end|>Call me")


def test_conversations_are_watched_in_their_template(chat_tokenizer):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"messages": talk, "group": str(n)} for n in range(40)]
    examples = Examples("chat", rows, "made", Report("made", 40, 40))
    assert "<|im_start|>assistant\nHello" in chat_tokenizer.decode(calibration(examples, chat_tokenizer, 2, 128)[0][0])


def test_too_little_text_is_refused_with_the_number_that_there_is(tokenizer):
    text = "Call me Ishmael. Some years ago. "
    length = len(tokenizer(text * 9)["input_ids"])
    assert len(calibration(make([text * 9]), tokenizer, length // 16, 16)) == length // 16
    with pytest.raises(
        UserError, match=rf"needs 500 windows of 16 tokens \(8,000 in all\).*gives {length // 16}; use samples"
    ):
        calibration(make([text * 9]), tokenizer, 500, 16)
    with pytest.raises(UserError, match="samples = 0"):
        calibration(make([text]), tokenizer, 0, 16)
    with pytest.raises(UserError, match="window = 1"):
        calibration(make([text]), tokenizer, 1, 1)
