from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from workbench.errors import UserError
from workbench.training import FinetuneConfig

GOOD = FinetuneConfig("tiny-lm", "moby-dick")


def test_every_setting_says_what_it_does_and_ends_like_a_sentence():
    for field in dataclasses.fields(FinetuneConfig):
        text = field.metadata["help"]
        assert re.fullmatch(r"[A-Z].{20,160}\.", text, re.DOTALL), (field.name, text)


def test_defaults_have_no_problem():
    assert GOOD.problems() == []
    GOOD.check()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it takes a number above 0."),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"steps": 0}, "steps is 0; it takes a whole number from 1 up."),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"window": 1}, "window is 1; it takes a whole number from 2 up."),
        ({"warmup": 1.0}, "warmup is 1.0; it takes a number from 0 to below 1."),
        ({"precision": "fp8"}, "precision is 'fp8'; it takes one of auto, fp32, bf16."),
        ({"kind": "tables"}, "kind is 'tables'"),
        ({"schedule": "step"}, "schedule is 'step'; it takes one of linear, cosine, constant, wsd."),
        ({"model": " "}, "model is empty; model to start from"),
        ({"method_args": ["r"]}, "method_args is ['r']"),
        ({"split_seed": -1}, "split_seed is -1"),
    ],
)
def test_one_bad_value_gives_one_sentence_with_value_and_range(change, sentence):
    problems = dataclasses.replace(GOOD, **change).problems()
    assert len(problems) == 1
    assert problems[0].startswith(sentence)


def test_all_problems_come_in_one_error():
    with pytest.raises(
        UserError, match=r"^3 problems: \(1\) steps is 0.* \(2\) window is 0.* \(3\) learning_rate is 0"
    ):
        dataclasses.replace(GOOD, steps=0, window=0, learning_rate=0).check()


def test_from_dict_refuses_unknown_and_missing_names():
    assert FinetuneConfig.from_dict({"model": "a", "data": "b", "steps": 3}).steps == 3
    with pytest.raises(UserError, match=r"no setting called 'step'.*data is missing"):
        FinetuneConfig.from_dict({"model": "a", "step": 3})


def test_importing_the_room_loads_no_torch():
    code = "import sys, workbench.training, workbench.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
