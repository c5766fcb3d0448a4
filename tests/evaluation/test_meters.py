import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from workbench.errors import UserError
from workbench.evaluation import PeakMemory, continue_text, disk_bytes, speed, weight_bytes
from workbench.evaluation.meters import stored_as


def test_speed_reports_every_repeat_and_what_it_did(build, tokenizer):
    model = build().float()
    found = speed(model, tokenizer, prompt_tokens=20, new_tokens=3, repeats=3)
    assert len(found.prefill) == len(found.decode) == 3
    assert found.prefill_tps == sorted(found.prefill)[1] and found.decode_tps == sorted(found.decode)[1]
    assert (found.dtype, found.device, found.batch_size, found.prompt_tokens) == ("float32", "cpu", 1, 20)
    for words in ("batch 1", "3 repeats", "float32", "20 tokens read"):
        assert words in found.sentence()


def test_speed_is_tokens_over_time(build, tokenizer, monkeypatch):
    from workbench.evaluation import meters

    monkeypatch.setattr(meters, "_once", lambda model, ids, new, wait: (0.5, 2.0))
    found = speed(build(), tokenizer, prompt_tokens=100, new_tokens=10, repeats=2)
    assert found.prefill == [200, 200] and found.decode == [5, 5]


def test_speed_uses_the_cache_and_writes_that_many_tokens(build, tokenizer):
    model, seen = build(), []
    model.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    speed(model, tokenizer, prompt_tokens=9, new_tokens=4, repeats=2)
    assert seen == [9, 1, 1] + 2 * [9, 1, 1, 1, 1]


@pytest.mark.parametrize("settings", [{"prompt_tokens": 0}, {"new_tokens": 0}, {"repeats": 0}, {"prompt_tokens": 250}])
def test_speed_refuses_what_cannot_be_measured(model, tokenizer, settings):
    with pytest.raises(UserError, match=r"needs 1 or more|more than the 256"):
        speed(model, tokenizer, **settings)


def test_weight_bytes_counts_each_tensor_once():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.zeros(10, dtype=torch.uint8))
            self.register_buffer("scratch", torch.zeros(3), persistent=False)
            self.cache = torch.zeros(5, dtype=torch.float64)  # a plain attribute takes memory too

    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False), Packed())
    assert weight_bytes(net) == 4 * 28 + 4 * 28 + 10 + 12 + 40
    net[1].weight = net[0].weight
    assert weight_bytes(net) == 4 * 28 + 10 + 12 + 40
    assert stored_as(net) == "float32 + float64 + uint8"


def test_weight_bytes_of_a_tied_model_equal_its_file(build, tmp_path):
    model = build(tie_word_embeddings=True).float()
    model.save_pretrained(tmp_path)
    rotary = sum(b.numel() * b.element_size() for b in model.buffers())
    header = disk_bytes(tmp_path) - (weight_bytes(model) - rotary)
    assert 0 < header < 5000  # names and shapes


def test_disk_bytes_counts_weights_only(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 999)
    assert disk_bytes(tmp_path) == 100 and disk_bytes(tmp_path / "model.safetensors") == 100
    for folder in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(UserError, match="no weight file"):
            disk_bytes(folder)


def test_peak_memory_sees_what_is_freed_again():
    """In a process of its own: here, what an earlier test left may be given back meanwhile and hide the block."""
    script = textwrap.dedent("""
        import time, torch
        from workbench.evaluation.meters import PeakMemory
        with PeakMemory() as meter:
            block = torch.ones(20_000_000)  # 80 MB
            time.sleep(0.05)
            del block
            time.sleep(0.02)
        print(meter.added_bytes, meter.seconds, meter.samples)
    """)
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    added, seconds, samples = map(float, told.split())
    assert 60e6 < added < 200e6 and seconds >= 0.07 and samples > 2
    with PeakMemory() as meter:
        time.sleep(0.02)
    assert meter.peak_bytes == meter.start_bytes + meter.added_bytes
    assert "sampled" in meter.sentence() and "whole process" in meter.sentence()


def test_peak_memory_stops_looking_after_an_error():
    import threading

    with pytest.raises(ZeroDivisionError), PeakMemory():
        _ = 1 / 0
    assert not any(thread.name == "peak-memory" for thread in threading.enumerate())


def test_greedy_continuation_equals_argmax_by_hand(model, tokenizer):
    ids = tokenizer(" The whale")["input_ids"]
    start = len(ids)
    for _ in range(6):
        ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert continue_text(model, tokenizer, " The whale", 6) == expected


def test_sampling_follows_its_seed_and_leaves_the_callers_state(build, tokenizer):
    model = build(initializer_range=0.02)
    before = torch.get_rng_state()
    first = [continue_text(model, tokenizer, " A", 12, seed=s, temperature=1.0) for s in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    assert torch.equal(before, torch.get_rng_state())


def test_a_models_own_sampling_defaults_do_not_leak_in(build, tokenizer):
    model = build()
    plain = continue_text(model, tokenizer, " A", 8)
    model.generation_config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0)
    assert continue_text(model, tokenizer, " A", 8) == plain


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        ("", {}, "prompt is empty"),
        ("a", {"new_tokens": 0}, "Cannot write 0 tokens"),
        ("a", {"temperature": -1.0}, "temperature -1"),
        ("a", {"top_p": 0.0}, "top_p 0"),
        ("a", {"new_tokens": 400}, "more than the 256"),
    ],
)
def test_continuation_refuses_bad_input(model, tokenizer, prompt, settings, words):
    with pytest.raises(UserError, match=words):
        continue_text(model, tokenizer, prompt, **{"new_tokens": 4} | settings)
