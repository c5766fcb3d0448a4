import copy

import pytest

from workbench.data import Examples, Report, encode, load, preview, prompt_text, spans
from workbench.data.encode import windows
from workbench.errors import UserError


def make(kind, rows, labels=()):
    rows = [{"group": f"g{n}"} | row for n, row in enumerate(rows)]
    return Examples(kind, rows, "made", Report("made", len(rows), len(rows)), labels)


TALK = [
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "Call me Ishmael."},
    {"role": "user", "content": "And the whale?"},
    {"role": "assistant", "content": "White."},
]


def learned(row, tokenizer):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_windows_by_hand():
    assert windows([*range(8)], 4) == [([0, 1, 2, 3], 0), ([4, 5, 6, 7], 0)]
    assert windows([*range(6)], 4) == [([0, 1, 2, 3], 0), ([2, 3, 4, 5], 2)]
    assert windows([*range(17)], 8) == [([*range(8)], 0), ([*range(8, 16)], 0)]
    assert windows([*range(18)], 8)[2] == ([*range(10, 18)], 6)
    assert windows([1, 2], 4) == []


def test_text_windows_stay_inside_their_document_and_learn_each_token_once(tokenizer):
    examples = load("moby-dick", limit=12)
    rows = encode(examples, tokenizer, window=64)
    ids = {row["group"]: tokenizer(row["text"])["input_ids"] for row in examples.rows}
    for group, document in ids.items():
        mine = [row for row in rows if row["group"] == group]
        assert all(len(row["input_ids"]) == len(row["labels"]) == 64 for row in mine)
        taught = [label for row in mine for label in row["labels"] if label != -100]
        assert taught == document[: len(taught)] and len(document) - len(taught) < 16
    assert rows.tokens == sum(label != -100 for row in rows for label in row["labels"])


def test_texts_all_shorter_than_a_window_are_refused_with_the_size_that_fits(tokenizer):
    examples = make("text", [{"text": "Call me Ishmael."}, {"text": "Short."}])
    longest = len(tokenizer("Call me Ishmael.")["input_ids"])
    with pytest.raises(UserError, match=f"window of 512 tokens .* all 2 documents are shorter; use {longest} or less"):
        encode(examples, tokenizer, window=512)
    fits = encode(examples, tokenizer, window=longest)
    assert (
        len(fits) == 1
        and fits.dropped == 1
        and "Left out, because nothing in them can be learned with this window: 1." in fits.sentence(longest)
    )
    with pytest.raises(UserError, match="window of 1 tokens"):
        encode(examples, tokenizer, window=1)


def test_a_pair_without_template_learns_completion_and_end(tokenizer):
    examples = make("prompt-completion", [{"prompt": "Q: colour?", "completion": "White"}])
    (row,) = encode(examples, tokenizer, window=64)
    assert tokenizer.decode(row["input_ids"]) == "Q: colour?\nWhite<|im_end|>"
    assert learned(row, tokenizer) == "White<|im_end|>"
    # what is read is exactly what the model is given when it must answer
    prompt = tokenizer("Q: colour?\n")["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt and row["labels"][: len(prompt)] == [-100] * len(prompt)


def test_a_prompt_that_ends_in_a_blank_keeps_its_border(tokenizer):
    examples = make("prompt-completion", [{"prompt": "It is ", "completion": "the whale"}])
    (row,) = encode(examples, tokenizer, window=64)
    assert tokenizer.decode(row["input_ids"]) == "It is the whale<|im_end|>"
    assert learned(row, tokenizer) == "the whale<|im_end|>"


def test_a_pair_with_a_template_becomes_two_turns(chat_tokenizer):
    examples = make("prompt-completion", [{"prompt": "Colour?", "completion": "White"}])
    (row,) = encode(examples, chat_tokenizer, window=99)
    assert "<|im_start|>user\nColour?<|im_end|>\n<|im_start|>assistant\nWhite<|im_end|>" in chat_tokenizer.decode(
        row["input_ids"]
    )
    assert learned(row, chat_tokenizer) == "White<|im_end|>"


def test_chat_learns_assistant_turns_only(chat_tokenizer):
    (row,) = encode(make("chat", [{"messages": TALK}]), chat_tokenizer, window=512)
    whole = chat_tokenizer.apply_chat_template(TALK, tokenize=False)
    assert chat_tokenizer.decode(row["input_ids"]) == whole
    assert learned(row, chat_tokenizer) == "Call me Ishmael.<|im_end|>White.<|im_end|>"
    asked = chat_tokenizer(prompt_text(TALK[:3], chat_tokenizer))["input_ids"]
    assert row["input_ids"][: len(asked)] == asked


def test_mask_can_be_lifted(chat_tokenizer):
    (row,) = encode(make("chat", [{"messages": TALK}]), chat_tokenizer, window=512, mask_prompt=False)
    assert row["labels"] == row["input_ids"]


def test_chat_without_template_uses_the_plain_form(tokenizer):
    (row,) = encode(make("chat", [{"messages": TALK}]), tokenizer, window=512)
    assert tokenizer.decode(row["input_ids"]) == (
        "User: Who are you?\nAssistant: Call me Ishmael.<|im_end|>\nUser: And the whale?\nAssistant: White.<|im_end|>\n"
    )
    assert learned(row, tokenizer) == " Call me Ishmael.<|im_end|> White.<|im_end|>"
    assert prompt_text(TALK[:1], tokenizer) == "User: Who are you?\nAssistant:"


def test_a_template_that_drops_old_reasoning_still_masks_right(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    found = [span.text for span in spans({"messages": TALK}, other) if span.learned]
    assert found == ["Call me Ishmael.<|im_end|>", "<think></think>White.<|im_end|>"]


def test_a_conversation_may_open_with_the_assistant(tokenizer, chat_tokenizer):
    for either in (tokenizer, chat_tokenizer):
        found = [span.text.strip() for span in spans({"messages": TALK[1:]}, either) if span.learned]
        assert found == ["Call me Ishmael.<|im_end|>", "White.<|im_end|>"]


def test_templates_that_refuse_or_lose_words_say_so(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match=r"roles user, assistant.*\(roles must alternate\)"):
        spans({"messages": TALK[:2]}, other)
    other.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}{% if add_generation_prompt %}?{% endif %}"
    with pytest.raises(UserError, match="does not keep the words of message 2 \\('Call me Ishmael"):
        spans({"messages": TALK[:2]}, other)


def test_long_rows_lose_their_end_and_are_counted(tokenizer):
    rows = [{"prompt": "Hi", "completion": "word " * 50}, {"prompt": "word " * 60, "completion": "lost"}]
    found = encode(make("prompt-completion", rows), tokenizer, window=32)
    assert len(found) == 1 and len(found[0]["input_ids"]) == 32
    assert (found.cut, found.dropped) == (1, 1) and "Longer ones lose their end: 1 (the longest has" in found.sentence(
        32
    )
    with pytest.raises(UserError, match=f"all 1 rows are cut before their answer; use {found.longest}"):
        encode(make("prompt-completion", rows[1:]), tokenizer, window=32)


def test_classification_gives_class_ids_that_a_split_does_not_move(tokenizer):
    rows = [{"text": "white whale " * 9, "label": "b"}, {"text": "sea", "label": "c"}]
    found = encode(make("classification", rows, ("a", "b", "c")), tokenizer, window=8)
    assert [row["labels"] for row in found] == [1, 2]
    assert len(found[0]["input_ids"]) == 8 and found.cut == 1
    assert tokenizer.decode(found[1]["input_ids"]) == "sea"


def test_a_begin_token_is_put_first_once(tokenizer):
    from tokenizers.processors import TemplateProcessing

    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<|s|>"})
    bos = other.bos_token_id
    other.backend_tokenizer.post_processor = TemplateProcessing(single="<|s|> $A", special_tokens=[("<|s|>", bos)])
    text = encode(make("text", [{"text": "Call me Ishmael. " * 4}]), other, window=16)
    assert text[0]["input_ids"][0] == bos and bos not in text[1]["input_ids"]
    pair = make("prompt-completion", [{"prompt": "a", "completion": "b"}])
    assert other.decode(encode(pair, other, window=16)[0]["input_ids"]) == "<|s|>a\nb<|im_end|>"
    other.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    row = encode(pair, other, window=16)[0]
    assert row["input_ids"].count(bos) == 1 and row["labels"][0] == -100


def test_a_tokenizer_that_puts_a_blank_first_is_joined_without_it():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    unigram = Tokenizer(models.BPE(unk_token="<unk>"))
    unigram.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    unigram.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    unigram.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], show_progress=False)
    unigram.train_from_iterator(["User: Hi\nAssistant: ab cd", "ab cd"], trainer)
    llama_like = PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>", pad_token="</s>")
    (row,) = encode(make("prompt-completion", [{"prompt": "Hi", "completion": "ab cd"}]), llama_like, window=40)
    assert llama_like.decode(row["input_ids"]) == "Hi\nab cd</s>"
    assert llama_like.convert_ids_to_tokens(row["labels"][-1]) == "</s>"
    assert "▁" not in llama_like.convert_ids_to_tokens([i for i in row["labels"] if i != -100])[0]


@pytest.mark.parametrize("kind", ["text", "prompt-completion", "chat", "classification"])
def test_the_preview_shows_what_is_encoded(chat_tokenizer, kind):
    rows = {
        "text": {"text": "Call me Ishmael."},
        "prompt-completion": {"prompt": "Who?", "completion": "Ishmael."},
        "chat": {"messages": TALK},
        "classification": {"text": "Call me Ishmael.", "label": "x"},
    }
    examples = make(kind, [rows[kind]] * 4, ("x", "y"))
    found = preview(examples, chat_tokenizer, n=2)
    assert len(found) == 2 and found[0]["group"] == "g0"
    window = found[0]["tokens"]
    row = encode(examples, chat_tokenizer, window=window)[0]
    assert chat_tokenizer.decode(row["input_ids"]) == "".join(span["text"] for span in found[0]["spans"])
    if kind == "classification":
        assert found[0]["label"] == "x" and found[0]["learned"] == 0
        return
    assert learned(row, chat_tokenizer) == "".join(span["text"] for span in found[0]["spans"] if span["learned"])
    assert found[0]["learned"] == sum(label != -100 for label in row["labels"])


def test_a_preview_of_a_book_is_short(tokenizer):
    found = preview(load("moby-dick"), tokenizer, n=3)[2]
    assert len(found["spans"][0]["text"]) == 2001 and found["tokens"] > 1000


def test_an_empty_part_encodes_to_nothing(tokenizer):
    assert encode(make("text", []), tokenizer, window=8) == []
