"""The laboratory of masked reading and its task: stages, what trains, where a curve stops, labels."""

from dataclasses import replace

import torch

from workbench.papers import _intrinsic_lm_lab as lab

PLAN = lab.Plan(
    2, (0.0, 0.5, 1.0), (60, 120), (3e-2,), (3e-3,), steps=2, train=32, judged=32, batch=8, window=6, width=8, layers=1
)


def task(seed=0):
    draw = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(3, 20, (n, 6), generator=draw)

    return lab.Task(ids(40), ids(32), torch.arange(32) % 4, ids(16), torch.arange(16) % 4, 20)


def test_stages_are_kept_on_the_way_and_all_start_with_the_same_output_layer():
    kept = lab.stages(PLAN, task(), 0)
    assert set(kept) == {0.0, 0.5, 1.0}
    fresh = lab.encoder(PLAN, 20, 0).state_dict()
    assert all(torch.equal(kept[0.0][name], value) for name, value in fresh.items())
    for stage in (0.5, 1.0):
        assert not torch.equal(kept[stage]["embedding.weight"], fresh["embedding.weight"])
        assert torch.equal(kept[stage]["output.weight"], fresh["output.weight"])


def test_head_alone_leaves_the_rest_and_a_flat_trains_exactly_d(monkeypatch):
    seen = []
    monkeypatch.setattr(lab, "fit", lambda model, *_: seen.append(model) or {"score": 0.5, "train": 0.6})
    state = lab.encoder(PLAN, 20, 0).state_dict()
    lab.direct(PLAN, task(), state, 0, head_only=True)
    assert [name for name, p in seen[-1].named_parameters() if p.requires_grad] == ["output.weight", "output.bias"]
    for structure in (False, True):
        lab.in_flat(PLAN, task(), state, 60, structure, 0)
        assert sum(p.numel() for p in seen[-1].parameters()) == 60


def test_curve_stops_at_the_line(monkeypatch):
    scores = iter([0.2, 0.91, 0.95])
    monkeypatch.setattr(lab, "in_flat", lambda *_: {"rate": 0.1, "score": next(scores)})
    plan = replace(PLAN, dims=(40, 80, 160))
    assert [row["d"] for row in lab.curve(plan, task(), {}, False, 1.0, 0, stage=1.0, kind="DID")] == [40, 80]


def test_labels_come_from_source_and_year():
    assert [lab._label("sotu", {"group": f"x-{year}"}) for year in (1899, 1900)] == [0, 1]
    assert (lab._label("moby-dick", {}), lab._label("kjv", {})) == (2, 3)
