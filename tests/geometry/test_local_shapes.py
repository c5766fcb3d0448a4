import pytest
import torch

from workbench.errors import UserError
from workbench.geometry.local_shapes import KINDS, PAPER, raw_patches, rotations, sample_patches, wedge_distance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_the_distance_to_a_dense_sample(kind):
    cloud, query, label = raw_patches(kind, 40, 6000, generator())
    nearest = torch.cdist(query[:, None], cloud).squeeze(1).amin(1)
    # a sample is never nearer than the surface (saddles: label read off a grid of step 0.025), and 6000 leave few gaps
    assert (nearest - label).min() > (-0.02 if kind == "saddle" else -1e-5)
    assert (nearest - label).median() < 0.01 and (nearest - label).max() < 0.25


def test_wedge_by_hand():
    side, up, slope = torch.tensor([0.0, 0.0, 2.0]), torch.tensor([1.0, -1.0, 0.0]), torch.ones(3)
    # above the ridge: 1; below it: 1/√2 to either flank; two to the right: √2 above the flank
    torch.testing.assert_close(wedge_distance(side, up, slope), torch.tensor([1.0, 0.5**0.5, 2**0.5]))


def test_rotations_are_rotations_and_even():
    turns = rotations(4000, generator())
    torch.testing.assert_close(turns @ turns.transpose(1, 2), torch.eye(3).expand(4000, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(4000))
    assert turns.mean(0).abs().max() < 0.05  # the positive octant of quaternions would give 0.5 off the diagonal


def test_clean_patches_look_like_the_paper_describes():
    patches, label = sample_patches(64, generator(), kinds=PAPER, noise=0, stray=0, points=(128, 128))
    assert patches.count.max() <= 128 and patches.count.min() >= 6
    nearest = (patches.points[:, 0] - patches.query).norm(dim=-1)
    assert (nearest - label).min() > -0.03 and (label >= 0).all()


def test_noise_and_stray_points_are_there_when_asked():
    clean = sample_patches(400, generator(1), kinds={"smooth": 1}, noise=0, stray=0, points=(60, 60))
    noisy = sample_patches(400, generator(1), kinds={"smooth": 1}, noise=0.12, stray=0, points=(60, 60))
    stray = sample_patches(400, generator(1), kinds={"smooth": 1}, noise=0, stray=0.25, points=(60, 60))
    for changed in (noisy, stray):
        share = (changed[0].points[:, 0] - clean[0].points[:, 0]).abs().sum(-1).gt(1e-6).float().mean()
        assert share > 0.3


def test_a_generator_decides_everything():
    one, two, other = (sample_patches(16, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0].points, two[0].points) and torch.equal(one[1], two[1])
    assert one[0].points.shape != other[0].points.shape or not torch.equal(one[1], other[1])


def test_unknown_kinds_are_refused():
    with pytest.raises(UserError, match="crease"):
        raw_patches("creese", 2, 10, generator())
