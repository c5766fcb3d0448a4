import json

import pytest
import torch

from workbench.errors import UserError
from workbench.geometry.local_shapes import sample_patches
from workbench.geometry.losf import LIGHT, LoSFNet
from workbench.geometry.train import held_out, losses, rate, step_generator, train_losf
from workbench.geometry.weights import load_losf, save_losf
from workbench.paths import assets


def fresh():
    torch.manual_seed(0)
    return LoSFNet(features=8, hidden=8, width=8)


def test_rate_by_hand():
    assert rate(0, 10_000) == pytest.approx(1 / 200)
    assert rate(5000, 10_000) == pytest.approx(0.5)
    assert rate(9999, 10_000) < 1e-6


def test_loss_is_error_plus_a_hundredth_of_the_displacements():
    net, batch = fresh(), sample_patches(8, step_generator(0, 0))
    loss, error = losses(net, batch)
    udf, moved = net(batch[0])
    assert error.item() == pytest.approx((udf - batch[1]).abs().mean().item())
    assert loss.item() == pytest.approx(error.item() + 0.01 * moved.abs().mean().item())


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.geometry.train.KEEP_EVERY", 3)
    whole, first, second = fresh(), fresh(), fresh()
    curve = train_losf(whole, 6, batch=8)

    class Stop(Exception):
        pass

    monkeypatch.setattr("workbench.geometry.train.sample_patches", interrupt := Interrupt(4, Stop))
    with pytest.raises(Stop):
        train_losf(first, 6, batch=8, keep=tmp_path / "run.pt")
    interrupt.left = 100
    resumed = train_losf(second, 6, batch=8, keep=tmp_path / "run.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    assert resumed[-1][0] == curve[-1][0] == 6


class Interrupt:
    """`sample_patches` that stops after some calls."""

    def __init__(self, left, error):
        self.left, self.error = left, error

    def __call__(self, *arguments, **more):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return sample_patches(*arguments, **more)


def test_a_few_steps_learn():
    torch.manual_seed(0)
    curve = train_losf(LoSFNet(**LIGHT), 120, batch=24)
    assert curve[-1][1] < 0.6 * curve[0][1]


def test_weights_come_back_as_they_went(tmp_path):
    net = fresh()
    save_losf(net, tmp_path, {"steps": 1})
    again = load_losf(tmp_path)
    batch = sample_patches(4, step_generator(0, 0))[0]
    assert torch.equal(net.eval()(batch)[0], again(batch)[0])
    assert json.loads((tmp_path / "training.json").read_text())["parameters"] == sum(
        p.numel() for p in net.parameters()
    )


def test_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_losf(tmp_path)
    save_losf(fresh(), tmp_path, {})
    told = json.loads((tmp_path / "training.json").read_text())
    told["settings"]["width"] = 16
    (tmp_path / "training.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="does not fit"):
        load_losf(tmp_path)


def test_the_shipped_weights_are_the_recorded_ones():
    folder = assets() / "models" / "losf-light"
    told = json.loads((folder / "training.json").read_text())
    net = load_losf()
    assert told["parameters"] == sum(p.numel() for p in net.parameters()) == 184_593
    assert (folder / "model.safetensors").stat().st_size < 1_000_000
    found = held_out(net, size=512, seed=7)["all"]
    assert found["noisy"] == pytest.approx(told["held_out"]["all"]["noisy"], rel=0.3)
    assert found["noisy"] < 0.8 * min(found["nearest point"], found["quadratic fit"])
