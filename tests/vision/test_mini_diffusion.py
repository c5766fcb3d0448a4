import json
from functools import partial

import pytest
import torch

from workbench.errors import UserError
from workbench.vision import measure, mini_diffusion, train
from workbench.vision.fastedit import denoising_loss
from workbench.vision.mini_diffusion import build_scheduler, haar, load_miniature, places, record, unhaar
from workbench.vision.session import noise_like, sample


def test_haar_by_hand_and_back():
    block = torch.tensor([[1.0, 2.0], [3.0, 8.0]]).expand(1, 3, 2, 2)
    assert haar(block)[0, ::3, 0, 0].tolist() == [
        7.0,
        -3.0,
        -4.0,
        2.0,
    ]  # (1+2+3+8)/2, (1−2+3−8)/2, (1+2−3−8)/2, (1−2−3+8)/2
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(unhaar(haar(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(haar(x).norm(), x.norm())


def test_places_run_from_corner_to_corner():
    found = places(torch.zeros(2, 12, 16, 16))
    assert found.shape == (2, 2, 16, 16)
    assert found[1, :, 0, 15].tolist() == [1, -1] and found[0, :, 15, 0].tolist() == [-1, 1]


def test_the_unet_has_the_size_the_card_names(base):
    assert 2e6 < sum(p.numel() for p in base.unet.parameters()) < 3e6
    z, t = torch.randn(2, 12, 16, 16), torch.tensor([3, 900])
    assert base.predict(base.unet, z, t, torch.randn(2, 1, 64)).shape == (2, 12, 16, 16)


def test_loss_is_the_error_of_v_by_formula(base):
    scheduler, generator = build_scheduler(), torch.Generator().manual_seed(0)
    z, noise = (torch.randn(3, 12, 16, 16, generator=generator) for _ in range(2))
    e, t = torch.randn(3, 1, 64, generator=generator), torch.tensor([10, 500, 990])
    kept = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * z + (1 - kept).sqrt() * noise
    v = kept.sqrt() * noise - (1 - kept).sqrt() * z
    expected = (base.predict(base.unet, noisy, t, e) - v).square().mean()
    torch.testing.assert_close(denoising_loss(base, base.unet, z, e, t, noise), expected)


def test_a_perfect_network_paints_the_picture_it_has_in_mind(base, picture):
    z = base.encode(picture)

    def oracle(unet, noisy, t, e):
        kept = base.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * z) / (1 - kept).sqrt()
        return kept.sqrt() * noise - (1 - kept).sqrt() * z

    base.predict = oracle
    made = sample(base, base.unet, torch.zeros(1, 1, 64), noise_like(base, 0), steps=10)
    torch.testing.assert_close(base.decode(made), picture, atol=2e-3, rtol=0)


def test_text_features_are_moved_by_the_gap(base, picture):
    plain = base.text_feature("a red star")
    base.gap = torch.ones(64)
    torch.testing.assert_close(base.text_feature("a red star"), plain - 1)
    assert 0 <= base.discrepancy(picture, "a red star") <= 2


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(UserError, match=r"python -m workbench\.vision\.train"):
        load_miniature(tmp_path)
    with pytest.raises(UserError, match="python -m workbench"):
        record(tmp_path)


def test_without_diffusers_the_message_names_the_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'workbench\[vision\]'"):
        load_miniature()


def test_training_goes_on_where_it_was_stopped_and_writes_everything(tmp_path, monkeypatch):
    small = {"clip-a": 8, "clip-b": 8, "reader": 8, "unet": 2}
    monkeypatch.setattr(train, "BATCH", small)
    monkeypatch.setattr(train, "STEPS", dict.fromkeys(small, 3))
    monkeypatch.setattr(measure, "measure", partial(measure.measure, n=12, painted=2))
    monkeypatch.setattr(measure, "reference", partial(measure.reference, n=6))
    run = lambda out, keep, steps: train.main(["--out", str(out), "--keep", str(keep), "--steps", str(steps)])  # noqa: E731
    run(tmp_path / "whole", tmp_path / "k1", 3)
    stop = {"left": 2}
    plain = train.Painter.loss

    def stopping(self, unet, step):
        stop["left"] -= 1
        if stop["left"] < 0:
            raise KeyboardInterrupt
        return plain(self, unet, step)

    monkeypatch.setattr(train.time, "monotonic", _clock())  # so that every step is kept
    monkeypatch.setattr(train.Painter, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", tmp_path / "k2", 3)
    monkeypatch.setattr(train.Painter, "loss", plain)
    run(tmp_path / "halves", tmp_path / "k2", 3)
    for name in ("clip-a", "clip-b", "reader", "unet"):
        one, two = ((tmp_path / folder / f"{name}.safetensors").read_bytes() for folder in ("whole", "halves"))
        assert one == two, name
    told = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert len(told["reference"]["gap"]) == 64 and told["reference"]["deltas"] == sorted(told["reference"]["deltas"])
    assert set(told["measured"]) == {"reader", "clip-a", "clip-b", "painted from the feature"}
    assert load_miniature(tmp_path / "whole").unet.training is False


def _clock():
    now = [0.0]

    def tick():
        now[0] += 30
        return now[0]

    return tick


def test_the_shipped_miniature_is_small_and_good():
    folder = mini_diffusion.folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    found = record()["measured"]
    assert min(found["reader"].values()) > 0.95, found["reader"]
    assert min(found["clip-a"][name] for name in ("shape", "colour", "background")) > 0.9
    assert record()["command"].startswith("python -m workbench.vision.train")
