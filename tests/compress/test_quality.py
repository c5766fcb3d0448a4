"""What compression does to a model that has really learned: the shipped tiny-lm on text it was not calibrated on."""

from __future__ import annotations

import copy

import pytest

from workbench import data, models
from workbench.compress import Calibration, quantize_model
from workbench.evaluation import perplexity

GROUP = 64


@pytest.fixture(scope="module")
def setting():
    model, tokenizer = models.load_model("tiny-lm", device="cpu"), models.load_tokenizer("tiny-lm")
    parts = data.split(data.load("moby-dick"), seed=0)

    def measure(packed) -> float:
        return perplexity(packed, tokenizer, parts["test"], window=128, max_tokens=3000).value

    return model, tokenizer, parts["train"], measure


@pytest.mark.parametrize("bits", [3, 2])
def test_gptq_beats_rounding_in_every_seed(bits, setting):
    model, tokenizer, train, measure = setting
    rounded = copy.deepcopy(model)
    quantize_model(rounded, method="rtn", bits=bits, group_size=GROUP)
    plain = measure(rounded)
    assert plain > measure(model)
    fitted, published = [], []
    for seed in range(3):
        windows = data.calibration(train, tokenizer, 24, 128, seed)
        for clip, found in ((True, fitted), (False, published)):
            packed = copy.deepcopy(model)
            quantize_model(packed, method="gptq", bits=bits, group_size=GROUP, calibration=windows, clip=clip)
            found.append(measure(packed))
            assert found[-1] < plain
        shared = copy.deepcopy(model)  # Hessians of the unquantized model: cheaper, and still better than rounding
        calibration = Calibration.collect(shared, windows)
        quantize_model(shared, method="gptq", bits=bits, group_size=GROUP, calibration=calibration)
        assert measure(shared) < plain
    if bits == 3:  # at 2 bits the two are level on this model
        assert sum(fitted) < sum(published)


def test_eight_bits_are_free_and_fewer_cost_more(setting):
    model, _, _, measure = setting
    dense, found = measure(model), {}
    for bits in (8, 4, 3):
        packed = copy.deepcopy(model)
        quantize_model(packed, method="rtn", bits=bits, group_size=GROUP)
        found[bits] = measure(packed)
    assert found[8] == pytest.approx(dense, rel=0.003)
    assert found[8] < found[4] < found[3]
