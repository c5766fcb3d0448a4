"""The page `dcls`: verdict by hand, pictures and labels, arms of equal size, the recipe, figures."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from workbench.errors import UserError
from workbench.figures import style
from workbench.layers.dcls import Dcls2d, layers_of
from workbench.papers import _dcls_figures, _dcls_lesson, _dcls_task, _dcls_train, badge, dcls

SMALL = dcls.plans("small")


def table(motifs, digits=(98.0, 96.0, 97.0), moved=1.5, seed=0):
    """Rows of one seed from accuracies (7 × 7, fixed dilation, DCLS)."""
    rows = []
    for task, values in (("motifs", motifs), ("digits", digits)):
        for arm, value in zip(_dcls_task.ARMS, values, strict=True):
            rows.append({"part": "accuracy", "task": task, "arm": arm, "accuracy": value, "parameters": 40000})
    for stage in (1, 2):
        for when, away in (("start", 0.4), ("end", 0.4 + moved)):
            place = {"stage": stage, "when": when}
            rows.append({"part": "mean", **place, "away": away})
            rows += [{"part": "bin", **place, "pixel": i, "share": 1 / 8} for i in range(8)]
    for moment in range(4):
        for element in range(5):
            point = {"element": element, "x": 0.1 * element - moment, "y": 0.3 * moment, "weight": element - 2.0}
            rows.append({"part": "point", "moment": moment, "channel": 3, **point})
    return pd.DataFrame(rows).assign(seed=seed)


@pytest.mark.parametrize(
    ("motifs", "moved", "expected"),
    [
        ((80.0, 70.0, 90.0), 1.5, 0.5),  # everything holds; the walk decides
        ((80.0, 70.0, 90.0), 0.8, -0.2),  # positions stayed
        ((80.0, 88.0, 90.0), 9.0, -0.95),  # only 2 points above fixed dilation
        ((80.0, 87.0, 90.0), 9.0, 0.05),  # at least 3 holds at exactly 3
        ((90.0, 70.0, 90.0), 9.0, 0.05),  # a tie with 7 × 7 is no worse
        ((91.0, 70.0, 90.0), 9.0, -0.95),
    ],
)
def test_margin_by_hand(motifs, moved, expected):
    assert dcls.margin(table(motifs, moved=moved)) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table((80.0, 70.0, 90.0), seed=seed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    shown = [dcls.figure(rows), dcls.points_figure(rows), dcls.spread_figure(rows)]
    for fig in shown:
        style.check(fig)
        style.check(style.theme(fig, dark=True, present=True))
    assert "DCLS reaches 90.0 %, a fixed dilation 70.0 %, dense 7 × 7 kernels 80.0 %" in style.alt(shown[0])
    assert ("3 seeds" if seeds == 3 else "1 seed;") in shown[0].layout.meta["caption"]
    assert "5 points" in style.alt(shown[1]) and "75 %" in style.alt(shown[2])
    assert "mean |P| grew by 1.50 pixels" in dcls.note(rows)


def test_the_kernel_under_the_points_is_the_layers():
    layer = Dcls2d(1, 1, 34, 17, version="v1")
    x, y = layer.P.detach()[:, 0, 0].numpy()
    points = pd.DataFrame({"x": x, "y": y, "weight": layer.weight.detach()[0, 0].numpy()})
    np.testing.assert_allclose(_dcls_figures.dense(points, 17), layer.dense_kernel().detach()[0, 0].numpy(), atol=1e-6)


def pairs_of(picture, shapes):
    """Centres and kinds of the motifs of a picture without noise."""
    found = []
    for kind, shape in enumerate(shapes):
        scores = nn.functional.conv2d(picture[None, None], shape[None, None])[0, 0]
        found += [(int(y), int(x), kind) for y, x in (scores > 8.99).nonzero()]
    return sorted(found)


def test_pictures_hold_what_their_labels_say_and_counting_tells_nothing():
    x, labels = _dcls_task.motif_pictures(64, torch.Generator().manual_seed(0), noise=0.0)
    shapes = _dcls_task.motif_shapes()
    assert 16 < labels.sum() < 48 and x.shape == (64, 1, 32, 32)
    for picture, label in zip(x[:, 0], labels, strict=True):
        motifs = pairs_of(picture, shapes)
        per_kind = np.bincount([kind for *_, kind in motifs])
        assert set(per_kind[per_kind > 0]) == {_dcls_task.PAIRS}  # as many of each kind, whatever the label
        for row in {y for y, _, _ in motifs}:
            (_, left, one), (_, right, other) = (m for m in motifs if m[0] == row)
            assert _dcls_task.NEAR <= right - left <= _dcls_task.FAR
            assert (one == other) == bool(label)


def test_pictures_follow_their_generator():
    one, again, other = (_dcls_task.motif_pictures(4, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    x, y = _dcls_task.digit_pictures()
    assert x.shape == (1797, 1, 24, 24) and x.min() >= 0 and x.max() <= 1 and set(y.tolist()) == set(range(10))


@pytest.mark.parametrize("scale", ["small", "full"])
def test_arms_have_equally_many_parameters(scale):
    plan = dcls.plans(scale)
    sizes = {}
    for arm in _dcls_task.ARMS:
        with torch.device("meta"):
            model = _dcls_task.network(arm, "motifs", plan)
        sizes[arm] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert max(sizes.values()) / min(sizes.values()) < 1.01, sizes


def test_fixed_dilation_is_a_dilated_convolution_that_only_learns_weights():
    torch.manual_seed(0)
    layer = _dcls_task.fixed_dilation(4)
    x = torch.randn(2, 4, 20, 20)
    weight = layer.weight.view(4, 1, 6, 6)
    plain = nn.functional.conv2d(nn.functional.pad(x, (8, 7, 8, 7)), weight, layer.bias, dilation=3, groups=4)
    torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["weight", "bias"]


def test_what_the_arms_are():
    torch.manual_seed(0)
    model = _dcls_task.network("DCLS", "motifs", SMALL)
    first, second = layers_of(model)
    assert (first.dilated_kernel_size, first.kernel_count, first.version) == ((17, 17), 34, "v1")
    assert first.P is not second.P
    optimizer, _ = _dcls_train.build_optimizer(model, "DCLS", SMALL, 20)
    rates = {group["name"]: group["max_lr"] for group in optimizer.param_groups}
    assert rates["positions"] == pytest.approx(dcls.FASTER * rates["weights"])
    plain = _dcls_task.network("7 × 7", "digits", SMALL)
    kernels = [m.kernel_size for m in plain.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert kernels == [(7, 7), (7, 7)] and plain.config.num_labels == 10
    with pytest.raises(UserError, match="did you mean DCLS"):
        _dcls_task.network("DCLs", "motifs", SMALL)


def test_training_moves_positions_keeps_them_inside_and_leaves_the_random_state_alone():
    plan = dcls.plans("smoke")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rows = _dcls_train.run("DCLS", "motifs", plan, 0)
    assert torch.equal(torch.get_rng_state(), before)
    parts = pd.DataFrame(rows).groupby("part").size()
    assert parts["accuracy"] == 1 and parts["mean"] == 4 and parts["bin"] == 2 * 2 * 8
    points = dcls.of(pd.DataFrame(rows), "point")
    assert (points[["x", "y"]].abs() <= 8).all(axis=None)
    ends = [points[points["moment"] == m][["x", "y"]].to_numpy() for m in (0, points["moment"].max())]
    assert (ends[0] != ends[1]).all()


def test_the_lessons_figures_and_measurement():
    for version, x in (("v1", 0.25), ("max", 0.0), ("gauss", -4.0)):
        style.check(_dcls_lesson.one_point(version, x, 1.5, 1.0))
    fig = _dcls_lesson.one_point("v1", 0.25, -1.25)
    assert "spread over 4 pixels; the nearest gets 56 %" in style.alt(fig)
    rows = _dcls_lesson.step_times(channels=4, side=18, batch=1, repeats=1)
    assert (
        list(rows["name"]) == ["7 × 7", "17 × 17", "fixed dilation", "DCLS, direct", "DCLS"] and (rows["ms"] > 0).all()
    )
    bars = _dcls_figures.step_bars(rows)
    style.check(bars)
    assert bars.data[0].text[list(rows.sort_values("ms")["name"]).index("7 × 7")].endswith("1.0 ×")


def test_the_badge_shows_the_other_pictures_too():
    stored = badge.read("dcls")
    rows = pd.DataFrame(stored["rows"])
    for seed in stored["seeds"]:
        style.check(dcls.points_figure(rows, seed["seed"]))
    style.check(dcls.spread_figure(rows))
