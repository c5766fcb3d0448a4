import copy

import pytest
import torch

from workbench.errors import JobError, UserError
from workbench.vision.baselines import imagic, sdedit, variation_only
from workbench.vision.fastedit import SD1_UNET, FastEdit, add_lora, lora_layers, semantic_timesteps, trainable_formula
from workbench.vision.session import noise_like, sample
from workbench.vision.views import VIEWS, views

DELTAS = torch.linspace(0, 1, 101)
PROMPT = "a blue star"


def painted(base, unet=None, e=None, **how):
    e = torch.ones(1, 1, 64) if e is None else e
    return sample(base, unet or base.unet, e, noise_like(base, 0), steps=3, **how)


def test_stable_diffusion_1_trains_3_188_736_numbers():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD1_UNET)
        assert sum(p.numel() for p in unet.parameters()) == 859_520_964
        assert trainable_formula(unet) == 3_188_736
        assert sum(p.numel() for p in add_lora(unet)) == 3_188_736
    assert pytest.approx(0.371, abs=5e-4) == 100 * 3_188_736 / 859_520_964


def test_the_formula_counts_what_the_adapter_has(base):
    expected = trainable_formula(base.unet, rank=3)
    assert len(lora_layers(base.unet)) == 4 * 8  # four blocks; q, k, v and out, twice each
    assert sum(p.numel() for p in add_lora(base.unet, rank=3)) == expected


def test_an_adapter_that_has_not_learned_changes_no_bit(base):
    before = painted(base)
    add_lora(base.unet, seed=1)
    assert torch.equal(painted(base), before)


def test_fused_equals_unfused(base, picture):
    session = FastEdit(base).fit(picture, PROMPT, steps=3, rate=0.05)
    apart = painted(base)
    base.unet.fuse_lora()
    torch.testing.assert_close(painted(base), apart, rtol=1e-5, atol=1e-4)
    base.unet.unfuse_lora()
    session.close()
    assert not torch.allclose(painted(base), apart, atol=1e-3)


def test_fitting_moves_the_adapter_alone_and_lowers_the_loss(base, picture):
    weights = {name: w.clone() for name, w in base.unet.state_dict().items()}
    session = FastEdit(base).fit(picture, PROMPT, steps=30, rate=1e-2, batch=4)
    assert sum(session.losses[-5:]) < 0.7 * sum(session.losses[:5])
    assert (
        session.seconds > 0 and session.trainable == 32 * 16 * 2 * 96 - 16 * 8 * 32
    )  # k and v of the feature read 64, not 96
    now = {name.replace(".base_layer", ""): w for name, w in base.unet.state_dict().items() if "lora" not in name}
    assert all(torch.equal(now[name], weights[name]) for name in weights)
    session.close()
    assert base.unet.state_dict().keys() == weights.keys()


def test_eta_0_is_the_picture_alone_and_eta_1_the_words_alone(base, picture):
    session = FastEdit(base).fit(picture, PROMPT, steps=2)
    noise = noise_like(base, 5)
    for eta, e in ((0, base.image_feature(picture)), (1, base.text_feature(PROMPT))):
        expected = base.decode(sample(base, base.unet, e, noise, steps=3))
        assert torch.equal(session.edit(eta, seed=5, steps=3, rescale=False), expected)
    half = session.mix(0.5, rescale=False)
    torch.testing.assert_close(half, (base.image_feature(picture) + base.text_feature(PROMPT)) / 2)


def test_words_are_brought_to_the_length_of_the_picture(base, picture):
    session = variation_only(base, picture, PROMPT)
    session.target = 3 * session.target
    torch.testing.assert_close(session.mix(1).norm(), session.source.norm())
    torch.testing.assert_close(session.mix(1, rescale=False), session.target)


def test_guidance_1_asks_once_and_3_asks_twice(base):
    asked, plain = [], base.predict
    base.predict = lambda unet, z, t, e: asked.append(len(z)) or plain(unet, z, t, e)
    once = painted(base)
    assert asked == [1, 1, 1]
    asked.clear()
    guided = painted(base, guidance=3.0)
    assert asked == [2, 2, 2] and not torch.allclose(once, guided)
    torch.testing.assert_close(painted(base, guidance=1 + 1e-7), once, atol=1e-3, rtol=1e-3)


def test_guidance_by_formula(base):
    base.predict = lambda unet, z, t, e: torch.ones_like(z) * e.mean((1, 2))[:, None, None, None]
    e = torch.full((1, 1, 64), 0.5)
    torch.testing.assert_close(painted(base, e=e, guidance=4.0), painted(base, e=4 * e))  # 0 + 4 (½ − 0)


def test_the_same_seed_paints_the_same_and_a_sweep_equals_its_parts(base, picture):
    session = FastEdit(base).fit(picture, PROMPT, steps=2)
    sweep = session.sweep([0.2, 0.8], steps=3, seed=4)
    torch.testing.assert_close(sweep[1:], session.edit(0.8, steps=3, seed=4), atol=1e-4, rtol=0)
    assert torch.equal(sweep, session.sweep([0.2, 0.8], steps=3, seed=4))
    assert not torch.allclose(sweep, session.sweep([0.2, 0.8], steps=3, seed=5))
    again = FastEdit(base).fit(picture, PROMPT, steps=2)
    assert again.losses == session.losses


def test_the_band_by_hand():
    assert semantic_timesteps(0.5, DELTAS, mode="uniform") == (0, 1000)
    assert semantic_timesteps(-1, DELTAS) == (0, 700)  # nearest: centre 0.35 ± 0.35
    assert semantic_timesteps(2, DELTAS) == (300, 1000)  # farthest: centre 0.65 ± 0.35
    assert semantic_timesteps(2, DELTAS, mode="reverse") == (0, 700)
    assert semantic_timesteps(2, DELTAS, mode="fixed") == (150, 850)
    assert semantic_timesteps(2, DELTAS, 100) == (30, 100)
    with pytest.raises(UserError, match="did you mean semantic"):
        semantic_timesteps(0.5, DELTAS, mode="semantics")


def test_steps_are_drawn_from_the_band(base, picture):
    base.deltas, seen, plain = torch.tensor([9.0]), [], base.predict
    base.predict = lambda unet, z, t, e: seen.extend(t.tolist()) or plain(unet, z, t, e)
    session = FastEdit(base).fit(picture, PROMPT, steps=40, batch=1)
    assert session.band == (0, 700) and max(seen) < 700 and min(seen) < 100 and max(seen) > 500


def test_a_newer_fit_takes_the_base_over(base, picture):
    first = FastEdit(base).fit(picture, PROMPT, steps=1)
    second = FastEdit(base).fit(picture, PROMPT, steps=1, rank=2)
    for call in (first.edit, lambda: first.save_lora("x"), lambda: sdedit(base, picture, PROMPT)):
        with pytest.raises(UserError, match=r"fitted on this base since|no LoRA to save|still open"):
            call()
    first.close()
    assert second.edit(0.5, steps=2).shape == (1, 3, 32, 32)


def test_saved_lora_loads_in_diffusers_and_paints_the_same(base, picture, tmp_path):
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    session = FastEdit(base).fit(picture, PROMPT, steps=3, rate=0.02)
    expected, file = painted(base), session.save_lora(tmp_path / "lora")
    session.close()
    assert file.is_file() and file.suffix == ".safetensors"
    state, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(tmp_path / "lora", local_files_only=True)
    assert len(state) == 64 and all(key.startswith("unet.") for key in state)
    base.unet.load_lora_adapter(state, prefix="unet")
    torch.testing.assert_close(painted(base), expected, rtol=1e-5, atol=1e-5)


def test_imagic_fits_a_token_then_all_weights_of_a_copy(base, picture):
    before = copy.deepcopy(base.unet.state_dict())
    session = imagic(base, picture, PROMPT, embedding_steps=3, model_steps=2, model_rate=1e-3)
    assert not torch.equal(session.source, base.text_feature(PROMPT))
    assert len(session.losses) == 5 and session.trainable == 64 + sum(p.numel() for p in base.unet.parameters())
    assert all(torch.equal(base.unet.state_dict()[name], w) for name, w in before.items())
    assert not torch.allclose(session.edit(0, steps=2), variation_only(base, picture, PROMPT).edit(0, steps=2))
    still = imagic(base, picture, PROMPT, embedding_steps=3, model_steps=0)
    assert torch.equal(painted(base, still.unet), painted(base))


def test_sdedit_starts_from_the_picture(base, picture):
    rival = sdedit(base, picture, PROMPT)
    torch.testing.assert_close(rival.sweep([0.0]), picture, atol=1e-5, rtol=0)
    whole = base.decode(sample(base, base.unet, rival.target, noise_like(base, 0), steps=4))
    torch.testing.assert_close(rival.sweep([1.0], steps=4), whole)
    with pytest.raises(UserError, match="between 0 and 1"):
        rival.sweep([1.2])


def test_views_are_what_they_are_called(picture):
    assert [len(views(picture, kind)) for kind in VIEWS] == [1, 2, 3, 2, 3]
    assert torch.equal(views(picture, "flip")[1].flip(3), picture)
    ramp = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    middle = views(ramp, "crop")[1]
    assert middle.max() - middle.min() == pytest.approx(0.6 * 2, abs=0.08)
    left, right = views(ramp, "rotate")[1:]
    torch.testing.assert_close(left.flip(2), right, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="did you mean flip"):
        views(picture, "flop")


def test_bad_numbers_and_prompts_are_refused(base, picture):
    with pytest.raises(UserError, match="does not know 'dog'"):
        FastEdit(base).fit(picture, "a red dog")
    with pytest.raises(UserError, match="rank 0, 50 steps"):
        FastEdit(base).fit(picture, PROMPT, rank=0)
    with pytest.raises(JobError, match="smaller learning rate"):
        FastEdit(base).fit(picture, PROMPT, steps=60, rate=1e30)
    assert not any("lora" in name for name in base.unet.state_dict())  # a failed fit leaves nothing behind
    session = FastEdit(base).fit(picture, PROMPT, steps=1)
    for bad in ({"etas": []}, {"etas": [0.5], "guidance": 0.5}, {"etas": [0.5], "steps": 0}):
        with pytest.raises(UserError, match="at least one of each"):
            session.sweep(**bad)
