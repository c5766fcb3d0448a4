"""The page `losf-udf`: verdict by hand, figures, what its arms are, and the short training."""

import json

import numpy as np
import pandas as pd
import pytest

from workbench.errors import UserError
from workbench.figures import style
from workbench.figures.shapes import surfaces, udf_slice
from workbench.geometry.mesh import Mesh
from workbench.papers import losf_udf

SQUARE = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])


def table(clean=(1.0, 2.0), worst=(1.0, 2.0), f1=(0.9, 0.8), rim=0.95, learned=(0.3, 0.1), seed=0):
    """Rows of one seed: errors (LoSF, baseline) on five shapes, scores of two meshes, error before and after training."""
    rows = [
        {"part": "learning", "shape": "patches", "method": "LoSF", "step": step, "error": error}
        for step, error in zip((0, 300), learned, strict=True)
    ]
    for condition, pair in (("clean", clean), (losf_udf.WORST, worst)):
        for shape in ("a", "b", "c", "d", "e"):
            errors = (pair[0], pair[1], pair[1])
            rows += [
                {"part": "udf", "shape": shape, "condition": condition, "method": m, "error": error, "known": 1.0}
                for m, error in zip(losf_udf.READERS, errors, strict=True)
            ]
    for method, score, edge in (("LoSF", f1[0], rim), ("screened Poisson", f1[1], 0.0)):
        rows += [
            {"part": "mesh", "shape": s, "condition": "clean", "method": method, "f1": score, "rim": edge}
            for s in ("a", "b")
        ]
    return pd.DataFrame(rows).assign(seed=seed)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0.1),  # terms 0.5, 0.2, 0.1, 0.15, 1/3
        ({"f1": (0.99, 0.5)}, 0.15), ({"f1": (0.99, 0.5), "rim": 1.0}, 0.2),  # then the rim, then all shapes − 0.8
        ({"clean": (2.0, 1.0)}, -1.0),  # twice the nearest point's error
        ({"worst": (2.0, 1.0)}, -0.8), ({"f1": (0.7, 0.8)}, -0.1), ({"rim": 0.3}, -0.5), ({"learned": (0.2, 0.15)}, -0.5),
    ],
)  # fmt: skip
def test_margin_by_hand(change, expected):
    assert losf_udf.margin(table(**change)) == pytest.approx(expected)


def test_one_shape_that_fails_decides_the_clean_part_and_not_the_noisy_one():
    rows = table(f1=(0.99, 0.1), rim=1.0)
    for condition in ("clean", losf_udf.WORST):
        one = (rows["shape"] == "c") & (rows["condition"] == condition) & (rows["method"] == "LoSF")
        rows.loc[one, "error"] = 2.2
    found = losf_udf.terms(rows)
    assert found["clean"] == pytest.approx(-0.1) and found["noisy"] == pytest.approx(0.0)
    assert "clean shapes (-0.100)" in losf_udf.note(rows)


@pytest.mark.parametrize("seeds", [1, 3])
def test_figures_are_in_the_house_style_and_say_the_finding(seeds):
    rows = pd.concat([table(seed=seed) for seed in range(seeds)], ignore_index=True)
    rows = pd.DataFrame(json.loads(rows.to_json(orient="records")))  # as a badge stores them
    first, second = losf_udf.figure(rows), losf_udf.mesh_figure(rows)
    for shown in (first, second):
        style.check(shown)
        style.check(style.theme(shown, dark=True))
    assert "clean: LoSF 5 of 5" in style.alt(first) and "LoSF 2 of 2" in style.alt(second)
    assert ("3 seeds" if seeds == 3 else "One seed") in first.layout.meta["caption"]
    hollow = [trace for trace in second.data if trace.name == "screened Poisson"]
    assert set(hollow[0].marker.color) == {style.LIGHT["ground"]}


def test_pictures_in_space_are_in_the_house_style():
    fig = surfaces({"points": np.random.default_rng(0).random((5000, 3)), "square": SQUARE})
    style.check(fig)
    style.check(style.theme(fig, dark=True))
    kinds = [trace.type for trace in fig.data]
    assert kinds == ["scatter3d", "mesh3d", "scatter3d", "scatter3d"]  # cloud, mesh, its open edge, names
    assert len(fig.data[0].x) <= 2500 and "4 open edges" in style.alt(fig)
    plane = udf_slice(
        np.array([[0.1, np.inf], [0.0, 0.2]]), np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.zeros((3, 2))
    )
    style.check(plane)
    assert "75%" in style.alt(plane)


def test_the_readers_see_the_same_cloud_and_queries():
    plan = losf_udf.plans("smoke")
    one, again = (losf_udf.distances("hemisphere", "clean", plan, 3) for _ in range(2))
    assert one == again and [row["method"] for row in one] == list(losf_udf.READERS)
    assert len({row["known"] for row in one}) == 1
    other = losf_udf.distances("hemisphere", "clean", plan, 4)
    assert other[1]["error"] != one[1]["error"]


def test_the_short_training_is_the_same_for_every_seed():
    rows = losf_udf.learning(2)
    assert [row["step"] for row in rows] == [0, 2] and rows is losf_udf.learning(2)


def test_without_the_peers_the_verdict_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open3d", None)
    with pytest.raises(UserError, match=r"workbench\[bench\]"):
        losf_udf.experiment(scale="small")
