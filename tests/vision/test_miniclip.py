import pytest
import torch
from torch.nn.functional import cross_entropy

from workbench.vision.captions import captions, random_names, tokens
from workbench.vision.judge import Reader, harmonic, judge, reading_loss, roughen
from workbench.vision.miniclip import MiniCLIP, contrastive_loss, fits, relatives
from workbench.vision.scenes import COLUMN, FACTORS, NAMED, draw, render, scene


def test_features_have_length_eight_and_padding_does_not_matter():
    torch.manual_seed(0)
    clip = MiniCLIP().eval()
    factors, jitter = draw(5, torch.Generator().manual_seed(0))
    for feature in (clip.encode_image(render(factors, jitter)), clip.encode_text(tokens(["a red star"] * 5))):
        assert feature.shape == (5, 64)
        torch.testing.assert_close(feature.norm(dim=1), torch.full((5,), 8.0))
    ids = tokens(["a red star", "a large striped red star at the left on grass with a sun"])
    torch.testing.assert_close(clip.encode_text(ids)[:1], clip.encode_text(ids[:1]))


def test_fits_by_hand():
    factors = torch.cat([scene(shape="star", colour="red"), scene(shape="star", colour="blue"), scene(shape="heart")])
    mask = torch.zeros(3, 7, dtype=torch.bool)
    mask[0, COLUMN["shape"]] = True  # "a star" fits two pictures
    mask[1, [COLUMN["shape"], COLUMN["colour"]]] = True
    mask[2, COLUMN["size"]] = True  # all three are small
    assert fits(factors, mask).tolist() == [[True, True, False], [False, True, False], [True, True, True]]


def test_loss_is_the_usual_one_when_each_fits_one_and_splits_when_several_do():
    logits = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = torch.arange(4)
    usual = (cross_entropy(logits, at) + cross_entropy(logits.T, at)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(4, dtype=torch.bool)), usual)
    flat = contrastive_loss(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool))
    assert flat.item() == pytest.approx(1.3863, abs=1e-4)  # ln 4: nothing to choose


def test_relatives_differ_in_one_or_two_named_factors():
    base, _ = draw(50, torch.Generator().manual_seed(0))
    family = relatives(base, 4, torch.Generator().manual_seed(1)).view(50, 4, -1)
    changed = (family != base[:, None]).sum(2)
    assert (changed[:, 0] == 0).all() and set(changed[:, 1:].flatten().tolist()) <= {0, 1, 2}
    assert (changed[:, 1:] > 0).float().mean() > 0.9
    assert torch.equal(family[:, :, len(NAMED) :], base[:, None, len(NAMED) :].expand(-1, 4, -1))
    assert all((family[..., i] < len(words)).all() for i, words in enumerate(FACTORS.values()))


def test_both_models_learn_from_a_few_steps():
    torch.manual_seed(0)
    factors, jitter = draw(32, torch.Generator().manual_seed(0))
    pictures, mask = render(factors, jitter), random_names(32, torch.Generator().manual_seed(0))
    ids, right = tokens(captions(factors, mask)), fits(factors, mask)
    clip, reader = MiniCLIP(8), Reader(8)
    for model, loss in (
        (clip, lambda: contrastive_loss(clip(pictures, ids), right)),
        (reader, lambda: reading_loss(reader(pictures), factors)),
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        first = loss().item()
        for _ in range(15):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        assert loss().item() < 0.8 * first


class Perfect(Reader):
    """A judge that reads a fixed answer."""

    def __init__(self, answer):
        super().__init__(8)
        self.answer = answer

    def read(self, pictures):
        return self.answer.expand(len(pictures), -1)


def test_scores_by_hand():
    original, wanted = scene(colour="red")[0], scene(colour="blue", position="left")[0]
    seen = scene(colour="blue", position="top", size="large")  # one of two changed, one of eight others lost
    ideal = render(wanted[None])
    (score,) = judge(Perfect(seen), ideal + 0.5, original, wanted, ideal[0], ("colour", "position"))
    assert score["target"] == 0.5 and score["kept"] == pytest.approx(7 / 8)
    assert score["harmonic"] == pytest.approx(2 * 0.5 * 0.875 / 1.375)
    assert score["distance"] == pytest.approx(0.5)
    (same,) = judge(Perfect(wanted[None]), ideal, original, wanted, ideal[0], ("colour", "position"))
    assert same["distance"] == 0 and same["feature"] < 1e-3 and same["harmonic"] == 1
    assert harmonic(0, 0) == 0 and harmonic(1, 0) == 0


def test_roughening_is_small_and_seeded():
    pictures = render(*draw(64, torch.Generator().manual_seed(0)))
    rough = roughen(pictures, torch.Generator().manual_seed(0))
    assert torch.equal(rough, roughen(pictures, torch.Generator().manual_seed(0)))
    assert 0.01 < (rough - pictures).abs().mean() < 0.15 and rough.abs().max() <= 1
