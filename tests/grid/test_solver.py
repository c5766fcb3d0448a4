"""Budgets are solved against the count on the real shapes; the count that training reports is the same."""

import pytest
from transformers import BertConfig, LlamaConfig

from workbench.errors import UserError
from workbench.grid.sizes import Shape, knob, placements, roles
from workbench.grid.solver import match_budget
from workbench.training.methods import find_method, list_methods


@pytest.fixture(scope="module")
def bert():
    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=99)
    return Shape(config, "sequence-classification", 3, window=16, steps=20)


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=99)  # fmt: skip
    return Shape(config, "causal-lm", None, window=16, steps=20)


def test_lora_by_hand(bert):
    # query and value in 4 layers: 8 · 2 · 32 numbers a rank
    found = match_budget(find_method("lora"), bert, 8 * 64 * 3)
    assert (found.arguments, found.size, found.within) == ({"r": 3}, 1536, True)


def test_between_two_ranks_single_layers_get_one_more(bert):
    found = match_budget(find_method("lora"), bert, 8 * 64 * 2 + 3 * 64)
    assert found.size == 8 * 64 * 2 + 3 * 64
    assert len(found.arguments["rank_pattern"]) == 3


def test_the_head_is_no_part_of_the_budget(bert):
    assert bert.size(find_method("lora"), {"r": 1}, "params") == 8 * 64
    assert bert.total == bert.size(find_method("full"), {}, "params")


@pytest.mark.parametrize("name", ["loha", "prompt", "prefix", "p-tuning", "compacter", "dept", "nola", "spiel", "ia3"])
def test_methods_reach_the_budget_or_say_how_near(bert, name):
    found = match_budget(find_method(name), bert, 2048)
    assert found.size == bert.size(find_method(name), found.arguments, "params")
    assert found.within == (abs(found.residual) <= 0.02)
    assert found.within or name in ("ia3", "loha", "compacter", "p-tuning", "prefix")


def test_every_method_can_be_counted_and_its_size_argument_moves_the_count(llama):
    for name in (entry["name"] for entry in list_methods()):
        how, sizes = knob(find_method(name)), set()
        for value in (how.least, 8, 16):
            try:
                sizes.add(llama.size(find_method(name), {how.argument: value} if how.argument else {}, "params"))
            except UserError:  # not every method takes every size, nor every model
                continue
        assert all(size > 0 for size in sizes), name
        assert how.argument is None or name == "last-n" or len(sizes) > 1, name


def test_methods_with_a_list_of_sizes_take_the_nearest(llama):
    found = match_budget(find_method("c3a"), llama, 192, fixed={"target_modules": ["q_proj"]})
    assert found.arguments["block_size"] == 8 or abs(found.residual) < 1
    assert found.size == llama.size(find_method("c3a"), found.arguments, "params")


def test_randlora_is_sized_by_its_products(llama):
    found = match_budget(find_method("wb-randlora"), llama, 1000)
    smaller = match_budget(find_method("wb-randlora"), llama, 500)
    assert found.size > smaller.size
    assert abs(found.residual) < 0.25


def test_bytes_count_what_is_stored(bert):
    found = match_budget(find_method("lora"), bert, 4 * 8 * 64 * 2, "bytes")
    assert found.arguments == {"r": 2}
    # VeRA trains few numbers but its file holds the frozen pair too
    vera = find_method("vera")
    assert bert.size(vera, {"r": 4}, "bytes") > 4 * bert.size(vera, {"r": 4}, "params")


def test_what_is_given_is_not_changed(bert):
    found = match_budget(find_method("lora"), bert, 2000, fixed={"target_modules": ["query"], "r": 2})
    assert found.arguments == {"target_modules": ["query"], "r": 2} and not found.within


def test_a_method_that_does_not_fit_the_model_says_why(llama):
    with pytest.raises(UserError, match=r"bitfit.*no bias|bias"):
        match_budget(find_method("bitfit"), llama, 1000)


def test_placements_are_distinct_and_name_real_layers(bert):
    patterns = list(placements(bert.bare))
    assert len(set(patterns)) == len(patterns)
    assert roles(bert.bare) == [
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "intermediate.dense", "output.dense",
    ]  # fmt: skip
