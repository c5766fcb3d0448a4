import pytest
import torch

from workbench.errors import UserError
from workbench.geometry.local_shapes import sample_patches
from workbench.geometry.losf import FULL, LIGHT, LoSFNet, ResNetPointNet
from workbench.geometry.patches import Patches, make_patches


def count(module):
    return sum(p.numel() for p in module.parameters())


def net(seed=0, **more):
    torch.manual_seed(seed)
    made = LoSFNet(**LIGHT, **more).double()
    for p in made.parameters():  # the second layers start at zero; a test needs them awake
        torch.nn.init.normal_(p, std=0.2)
    return made.eval()


def patches(size=6, n=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(size, n, 3, generator=generator, dtype=torch.float64)
    number = torch.randint(6, n + 1, (size,), generator=generator)
    return make_patches(points, number, torch.zeros(size, 3, dtype=torch.float64))


def part(of, rows):
    return Patches(of.points[rows], of.query[rows], of.count[rows], of.scale[rows])


def test_parameter_counts_of_the_paper():
    assert count(LoSFNet()) == count(LoSFNet(**FULL)) == 653_121
    assert count(LoSFNet(**LIGHT)) == 184_593
    assert count(ResNetPointNet(64, 64)) == 107_712


def reference_pointnet(model, points):
    """The released forward pass, written out: concatenate the pooled features, then apply each block."""
    act = torch.nn.functional.leaky_relu
    x = points @ model.fc_pos.weight.T + model.fc_pos.bias
    for i, block in enumerate(model.blocks):
        if i:
            x = torch.cat([x, x.max(1, keepdim=True).values.expand_as(x)], 2)
        inner = act(x) @ block.fc_0.weight.T + block.fc_0.bias
        x = x @ block.shortcut.weight.T + act(inner) @ block.fc_1.weight.T + block.fc_1.bias
    return act(x.max(1).values) @ model.fc_c.weight.T + model.fc_c.bias


def test_pointnet_equals_the_released_formula():
    model, points = net().points_net, patches().points
    torch.testing.assert_close(model(points)[1], reference_pointnet(model, points))


@pytest.mark.parametrize("denoise", ["added", "inert"])
def test_output_equals_the_formula_written_out_for_one_patch(denoise):
    model, batch = net(denoise=denoise), part(patches(), [2])
    act, n = torch.nn.functional.leaky_relu, int(batch.count)
    vectors = batch.points - batch.query
    key_features = model.points_net(batch.points)[0][0, :n]
    distances = vectors[0].norm(dim=-1)[torch.arange(128) * n // 128]

    def attend(layer, asking, seen):
        scores = torch.stack([layer.query(asking) @ layer.key(row) for row in seen]) / 32**0.5
        return sum(w * layer.value(row) for w, row in zip(scores.softmax(0), seen, strict=True))

    noisy, whole = model.denoise_net(batch.points)
    noise = attend(model.self_attention, whole[0], noisy[0, :n])
    moved = model.displace(torch.cat([noise, distances]))
    read = attend(model.cross, reference_pointnet(model.vectors_net, vectors)[0], key_features)
    shifted = distances + moved if denoise == "added" else distances
    expected = model.output(torch.cat([model.after(act(read)), shifted]))
    udf, displacement = model(batch)
    torch.testing.assert_close(udf, expected)
    torch.testing.assert_close(displacement[0], moved)


def test_a_prediction_does_not_depend_on_its_batch():
    model, batch = net(), patches()
    together = model(batch)[0]
    alone = torch.cat([model(part(batch, [i]))[0] for i in range(len(batch))])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_the_released_attention_does():
    model, batch = net(attention="batch"), patches()
    alone = torch.cat([model(part(batch, [i]))[0] for i in range(len(batch))])
    assert (model(batch)[0] - alone).abs().max() > 1e-3


def test_the_denoising_branch_matters_only_when_it_is_wired():
    batch = patches()
    for denoise, matters in (("added", True), ("inert", False)):
        model = net(denoise=denoise)
        before = model(batch)[0]
        with torch.no_grad():
            model.displace[-1].bias += 1.0
        assert torch.equal(model(batch)[0], before) != matters
        model(batch)[0].sum().backward()
        assert all((p.grad is not None) == matters for p in model.displace.parameters())


def test_repeats_and_padding_change_nothing():
    batch = patches(n=12)
    model = net()
    wider = torch.cat([batch.points, batch.points[:, -1:].expand(-1, 30, -1)], 1)
    longer = Patches(wider, batch.query, batch.count, batch.scale)
    torch.testing.assert_close(model(longer)[0], model(batch)[0], rtol=1e-12, atol=1e-14)


def test_distances_are_positive_and_gradients_reach_every_parameter():
    model = LoSFNet(**LIGHT)
    batch, label = sample_patches(32, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):  # in the first step the zero layers shield what is behind them
        udf, moved = model(batch)
        optimizer.zero_grad()
        ((udf - label).abs().mean() + 0.01 * moved.abs().mean()).backward()
        optimizer.step()
    assert (udf > 0).all()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in dead if "query" not in name and "key" not in name], dead


@pytest.mark.parametrize("wrong", [{"attention": "point"}, {"denoise": "adde"}])
def test_unknown_variants_are_refused(wrong):
    with pytest.raises(UserError, match="did you mean"):
        LoSFNet(**LIGHT, **wrong)
