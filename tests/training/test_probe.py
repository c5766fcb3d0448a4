"""The capability probe: what it finds on methods whose abilities are known, and that the shipped answers are its own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench.training import abilities, list_methods, probe
from workbench.training.methods import find_method
from workbench.training.multiplications import count


def test_multiplications_by_hand():
    x, w, y = torch.randn(3, 5), torch.randn(7, 5), torch.randn(3, 7)
    assert count(lambda: F.linear(x, w)) == 3 * 5 * 7
    assert count(lambda: F.linear(x, w) * y) == 3 * 5 * 7 + 21
    assert count(lambda: x + 1) == 0
    assert count(lambda: torch.fft.rfft(torch.randn(8))) == 2 * 8 * 3
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
    assert count(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * (2 * 3) * 4 * 6 * 8


def test_a_lora_layer_costs_its_two_thin_matrices():
    base, r = nn.Linear(16, 12, bias=False), 2
    a, b, x = torch.randn(r, 16), torch.randn(12, r), torch.randn(5, 16)
    plain = count(lambda: base(x))
    assert count(lambda: base(x) + F.linear(F.linear(x, a), b)) - plain == 5 * r * (16 + 12)


def test_every_method_was_probed_and_every_answer_is_one_of_four():
    shipped = abilities.known()
    assert set(shipped) == {method["name"] for method in list_methods()}, "run: python -m workbench.training.probe"
    for name, answers in shipped.items():
        assert set(answers) == {*abilities.QUESTIONS, "reasons"}
        for question in ("merge", "unmerge", "several", "mixed", "quantized", "quantized_merge"):
            assert answers[question] in abilities.ANSWERS, (name, question)
            if answers[question] in ("no", "wrong"):
                assert answers["reasons"][question], (name, question)
        assert answers["models"] or answers["reasons"], name


def test_the_answers_were_made_with_this_peft():
    import importlib.metadata

    made = abilities.stored()["made"]
    assert made["peft"] == importlib.metadata.version("peft"), "peft changed; run: python -m workbench.training.probe"
    assert made["command"] == probe.COMMAND


@pytest.mark.parametrize("name", ["lora", "nola", "prompt", "full"])
def test_probing_again_finds_what_is_shipped(name):
    again = probe.probe(name)
    assert again == abilities.known()[name]


def test_known_facts_come_out():
    shipped = abilities.known()
    lora, prompt, full = shipped["lora"], shipped["prompt"], shipped["full"]
    assert {"linear", "conv1d"} <= set(lora["targets"]) and lora["merge"] == lora["mixed"] == lora["several"] == "yes"
    assert 0 < lora["extra"] < 0.2
    assert prompt["merge"] == "no" and prompt["targets"] == []
    assert shipped["prefix"]["extra"] > 0  # keys and values in front of every layer's
    assert full["merge"] == "-" and full["extra"] == 0
    assert shipped["nola"]["quantized"] == "yes" and shipped["nola"]["quantized_merge"] == "no"
    assert shipped["dept"]["mixed"] == "no"  # refused, not dropped


def test_ours_are_never_silently_wrong():
    from workbench import adapters

    for method in adapters.methods():
        answers = abilities.known()[method["name"].replace("_", "-")]
        wrong = [question for question, value in answers.items() if value == "wrong"]
        assert not wrong, (method["name"], wrong, answers["reasons"])


def test_a_probe_that_raises_or_lies_is_an_answer_and_leaves_no_trace():
    before, state = torch.get_default_dtype(), torch.get_rng_state()

    def work():
        with probe.fresh():
            torch.set_default_dtype(torch.float64)
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert torch.get_default_dtype() == before and torch.equal(torch.get_rng_state(), state)
    with pytest.raises(probe.Failed, match="apart"):
        probe.same(torch.ones(2), torch.tensor([1.0, 1.5]), "differs")
    assert probe.different(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
    assert probe.sentence(ValueError("a\n b")) == "a b"
    assert len(probe.sentence(ValueError("word " * 100))) <= 160


def test_table_and_sentences_show_every_method_and_reason():
    shipped = abilities.known()
    lines = abilities.table(shipped)
    assert sum(line.split(" ")[0] in shipped for line in lines) == len(shipped)
    text = "\n".join(abilities.sentences(shipped["prompt"]))
    assert shipped["prompt"]["reasons"]["merge"] in text
    assert abilities.markdown().count("\n| `") == len(shipped)
    assert find_method("lora").name in abilities.markdown()


def test_the_command_shows_one_method_with_its_answers_and_the_table_of_all():
    from click.testing import CliRunner

    from workbench.commands.info import methods
    from workbench.errors import UserError

    def say(*words):
        return CliRunner().invoke(methods, words, catch_exceptions=False, standalone_mode=False)

    one = say("NOLA").output
    assert "num_basis=512" in one and "What it can do, probed:" in one and "cannot be merged into IntLinear" in one
    table = say("--kind", "adapter", "--abilities").output.splitlines()
    assert table[0].split()[0] == "method" and len(table) > len(abilities.known())
    with pytest.raises(UserError, match=r"did you mean .*lora"):
        say("lorra")
