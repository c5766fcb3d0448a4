"""Which entries train: exchange by hand, phases, seeded moments, full density, thousand moves, resuming, masks."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from workbench.adapters import SpielConfig
from workbench.adapters._sparse_delta import largest
from workbench.adapters._sparse_delta_optim import SpielAdamW
from workbench.adapters._sparse_delta_select import (
    Reselector,
    _Collector,
    choose_mask,
    exchange,
    spiel_layers,
    spiel_optimizer,
)
from workbench.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def adapted(shape=(8, 6), **settings):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    return get_peft_model(
        base, SpielConfig(**{"target_modules": ["0"], "num_weights": 10, "interval": 8, "accumulate": 2, **settings})
    )


def held(model):
    layer = model.base_model.model[0]
    return layer, layer.spiel_values["default"], layer.spiel_indices["default"]


def problem(shape=(8, 6), rows=64):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, shape[1], generator=generator)
    return x, x @ torch.randn(shape[1], shape[0], generator=generator)


def step(model, optimizer, selector=None, rows=slice(None), shape=(8, 6)):
    x, y = problem(shape)
    optimizer.zero_grad()
    (model(x[rows]) - y[rows]).square().mean().backward()
    optimizer.step()
    if selector is not None:
        selector.after_step()


def swap(values, indices, candidates, score, share):
    places = torch.tensor(indices, dtype=torch.int32), torch.tensor(candidates, dtype=torch.int32)
    slots, taken = exchange(torch.tensor(values), *places, torch.tensor(score), share)
    return slots.tolist(), taken.tolist()


def test_exchange_by_hand():
    # p = 0.5 of four: the smallest |φ| are places 1 and 2 (positions 11, 12)
    assert swap([5.0, 0.1, -0.2, 3.0], [10, 11, 12, 13], [20, 21, 22], [1.0, 3.0, 2.0], 0.5) == ([1, 2], [1, 2])
    # 13 is active and stays, so it cannot be grown; the next best takes the turn
    assert swap([5.0, 0.1, -0.2, 3.0], [10, 11, 12, 13], [13, 21, 22], [9.0, 3.0, 2.0], 0.5) == ([1, 2], [1, 2])


def test_what_is_dropped_and_grown_at_once_is_left_untouched():
    # 11 is dropped and the best candidate: it keeps its value; only 12 leaves, for 22
    assert swap([5.0, 0.1, -0.2, 3.0], [10, 11, 12, 13], [11, 22, 23], [9.0, 3.0, 2.0], 0.5) == ([2], [1])


def test_nothing_moves_without_a_share_or_candidates():
    assert swap([1.0, 2.0], [3, 4], [7], [1.0], 0.4) == ([], [])
    assert swap([1.0, 2.0], [3, 4], [3, 4], [1.0, 2.0], 0.5) == ([], [])


def test_fewer_candidates_than_places_move_fewer():
    assert swap([1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3], [9], [1.0], 1.0) == ([0], [0])


def test_phases_open_one_update_before_and_close_after_the_interval():
    model = adapted()
    optimizer = spiel_optimizer(model, 0.01)
    selector, open_after = Reselector(model, optimizer, 20), []
    for update in range(1, 21):
        step(model, optimizer, selector)
        if selector.collectors:
            open_after.append(update)
    assert [row["step"] for row in selector.log] == [2, 10, 18]
    assert open_after == [1, 7, 8, 9, 15, 16, 17]  # watched: updates 1–2, 8–10, 16–18
    assert [row["share"] for row in selector.log] == pytest.approx([1.0, 0.2 * (1 - 10 / 20), 0.2 * (1 - 18 / 20)])


def test_share_follows_the_cosine_when_asked():
    model = adapted(schedule="cosine")
    selector = Reselector(model, spiel_optimizer(model, 0.01), 40)
    selector.step = 20
    assert selector.share() == pytest.approx(0.1)
    selector.step = 10
    assert selector.share() == pytest.approx(0.2 * (1 + 0.5**0.5) / 2)


def test_candidates_sums_and_seeded_moments_are_those_of_dense_gradients():
    """First phase, accumulation of two micro-batches: newcomers' moments and ages from dense gradients by hand."""
    model = adapted()
    optimizer = spiel_optimizer(model, 0.0)  # weights stand still, gradients repeat
    selector = Reselector(model, optimizer, 20, accumulation=2)
    layer, values, indices = held(model)
    x, y = problem()
    dense_w, dense = layer.get_base_layer().weight.detach().clone().requires_grad_(), []
    for rows in (slice(0, 16), slice(16, 40), slice(40, 50), slice(50, 64)):
        loss = (x[rows] @ dense_w.T - y[rows]).square().mean() / 2
        dense.append(2 * torch.autograd.grad(loss, dense_w)[0].view(-1))  # an update's gradient, not a micro-batch's
    first = indices.tolist()
    candidates = largest(dense[0].abs(), 10)
    total, squares = sum(dense), sum(g.square() for g in dense)
    for pair in ((slice(0, 16), slice(16, 40)), (slice(40, 50), slice(50, 64))):
        optimizer.zero_grad()
        for rows in pair:
            ((model(x[rows]) - y[rows]).square().mean() / 2).backward()
        optimizer.step()
        selector.after_step()
    assert indices.tolist() == candidates.tolist()  # share 1: all of the candidates, those held already among them
    state = optimizer.state[values]
    new = torch.tensor([position not in first for position in indices.tolist()])
    assert new.any()
    where = indices[new].long()
    torch.testing.assert_close(state["age"][new], torch.full((int(new.sum()),), 2.0))
    torch.testing.assert_close(state["exp_avg"][new], total[where] / 4 * (1 - 0.9**2))
    torch.testing.assert_close(state["exp_avg_sq"][new], squares[where] / 4 * (1 - 0.999**2))
    if (~new).any():
        torch.testing.assert_close(state["age"][~new], torch.full((int((~new).sum()),), 2.0))


def test_candidates_do_not_depend_on_the_block_they_were_seen_in():
    generator = torch.Generator().manual_seed(0)
    passes = [torch.randn(48, generator=generator) for _ in range(3)]
    found = []
    for block in (48, 6, 18):
        collector = _Collector(10, 48, 2.0)
        for gradient in passes:
            for start in range(0, 48, block):
                collector(start, gradient[start : start + block])
        found.append(collector)
    expected = largest(passes[0].abs(), 10)
    for collector in found:
        assert torch.equal(collector.positions, expected) and collector.samples == 3
        torch.testing.assert_close(collector.total, 2 * sum(passes)[expected.long()])
        torch.testing.assert_close(collector.squares, 4 * sum(g.square() for g in passes)[expected.long()])


@pytest.mark.parametrize("selection", ["gradient", "momentum"])
def test_after_many_moves_places_are_distinct_sorted_and_as_many_as_before(selection):
    model = adapted(selection=selection, initial_rate=1.0, interval=4, accumulate=1)
    optimizer = spiel_optimizer(model, 0.05)
    selector, (layer, values, indices) = Reselector(model, optimizer, 2000), held(model)
    for update in range(300):
        step(model, optimizer, selector, rows=slice(update % 7, 20 + update % 11))
        assert torch.equal(indices, indices.unique()) and len(indices) == len(values) == 10
        assert indices.min() >= 0 and indices.max() < 48
    assert len(selector.log) == 75 and sum(row["moved"] for row in selector.log[1:]) > 0
    assert layer.spiel_indices["default"] is indices and torch.isfinite(values).all()


def test_thousand_random_exchanges_keep_the_set():
    generator = torch.Generator().manual_seed(0)
    indices = torch.randperm(500, generator=generator)[:40].to(torch.int32)
    for _ in range(1000):
        values = torch.randn(40, generator=generator)
        candidates = torch.randperm(500, generator=generator)[:40].to(torch.int32)
        slots, taken = exchange(
            values, indices, candidates, torch.rand(40, generator=generator), torch.rand(1, generator=generator).item()
        )
        indices[slots] = candidates[taken]
        assert len(indices.unique()) == 40


def test_all_entries_without_moves_are_full_finetuning_with_adamw():
    model = adapted(num_weights=48, initial_rate=0.0)
    dense = copy.deepcopy(model.base_model.model[0].get_base_layer())
    full = torch.optim.AdamW(dense.requires_grad_().parameters(), lr=0.02, eps=1e-6, weight_decay=0)
    optimizer = spiel_optimizer(model, 0.02)
    selector = Reselector(model, optimizer, 30)
    x, y = problem()
    for _ in range(30):
        step(model, optimizer, selector)
        full.zero_grad()
        (dense(x) - y).square().mean().backward()
        full.step()
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x), rtol=1e-3, atol=1e-4)  # float32 over 30 steps


def test_momentum_grows_where_row_and_column_sums_are_largest():
    model = adapted(selection="momentum", num_weights=3)
    optimizer = spiel_optimizer(model, 0.01)
    selector, (_, values, indices) = Reselector(model, optimizer, 20), held(model)
    indices.copy_(torch.tensor([0, 7, 14], dtype=torch.int32))
    optimizer.state[values].update(
        row=torch.tensor([1.0, 5, 3, 0, 0, 0, 0, 0]), column=torch.tensor([2.0, 1, 4, 0, 0, 0])
    )
    with torch.no_grad():
        values.copy_(torch.tensor([0.1, 2.0, 3.0]))
    selector.step, selector.config.initial_rate = 10, 1.0
    selector._close()
    # share 0.5 of three: one leaves (position 0); row 1 × column 2 (20) is the largest place not held
    assert indices.tolist() == [7, 8, 14] and values.tolist() == [2.0, 0.0, 3.0]


def test_a_resumed_run_takes_the_steps_of_an_uninterrupted_one():
    def start():
        model = adapted()
        optimizer = spiel_optimizer(model, 0.05)
        return model, optimizer, Reselector(model, optimizer, 30)

    whole = start()
    for update in range(30):
        step(*whole, rows=slice(update, update + 20))
    for stop in (9, 13):  # inside a phase, between two
        first = start()
        for update in range(stop):
            step(*first, rows=slice(update, update + 20))
        second = start()
        second[0].load_state_dict(first[0].state_dict())
        second[1].load_state_dict(copy.deepcopy(first[1].state_dict()))
        second[2].load_state_dict(copy.deepcopy(first[2].state_dict()))
        for update in range(stop, 30):
            step(*second, rows=slice(update, update + 20))
        assert torch.equal(held(second[0])[2], held(whole[0])[2]) and torch.equal(held(second[0])[1], held(whole[0])[1])
        assert second[2].log == whole[2].log


@pytest.mark.parametrize("score", ["gradient", "fisher"])
def test_mask_chosen_once_is_the_largest_score_of_dense_gradients(score):
    model = adapted(selection="static")
    layer, values, indices = held(model)
    x, y = problem()
    weight = layer.get_base_layer().weight.detach().clone().requires_grad_()
    total = 0
    for rows in (slice(0, 30), slice(30, 64)):
        (gradient,) = torch.autograd.grad((x[rows] @ weight.T - y[rows]).square().mean(), weight)
        total = total + (gradient.square() if score == "fisher" else gradient)
    losses = [lambda rows=rows: (model(x[rows]) - y[rows]).square().mean() for rows in (slice(0, 30), slice(30, 64))]
    choose_mask(model, losses, score)
    assert torch.equal(indices, largest(total.abs(), 10)) and values.grad is None and not layer.spiel_watch


def test_a_static_selection_never_moves():
    model = adapted(selection="static")
    optimizer = spiel_optimizer(model, 0.05)
    selector, before = Reselector(model, optimizer, 30), held(model)[2].clone()
    for _ in range(20):
        step(model, optimizer, selector)
    assert torch.equal(held(model)[2], before) and not selector.log


def test_a_plain_optimizer_is_refused_because_newcomers_would_leap():
    model = adapted()
    plain = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with pytest.raises(UserError, match="needs the optimizer SpielAdamW, not AdamW"):
        Reselector(model, plain, 10)
    with pytest.raises(UserError, match="needs the optimizer SpielSM3, not SpielAdamW"):
        Reselector(adapted(selection="momentum"), SpielAdamW([nn.Parameter(torch.zeros(1))]), 10)


def test_a_model_without_the_adapter_is_refused():
    with pytest.raises(UserError, match="No layer carries a spiel adapter called 'other'"):
        spiel_layers(adapted(), "other")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_places_are_found_by_moving_and_not_by_a_random_mask(seed):
    from workbench.papers._sparse_lab import planted

    moved, still = (planted(selection, seed, steps=150)["recovered"] for selection in ("gradient", "static"))
    assert moved >= 0.9 and still <= 0.05
