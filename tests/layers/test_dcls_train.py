"""What training needs: groups, clamping after each step, shared positions, repulsion."""

import copy

import pytest
import torch
from torch import nn

from workbench.errors import UserError
from workbench.layers.dcls import (
    Dcls2d,
    clamp_after_steps,
    clamp_positions,
    layers_of,
    position_groups,
    repulsion,
    share_positions,
)


def layer(m=6, **settings):
    return Dcls2d(4, 4, m, 9, padding=4, groups=4, **({"version": "v1"} | settings))


def model():
    torch.manual_seed(0)
    return nn.Sequential(layer(), nn.GroupNorm(1, 4), nn.GELU(), layer(version="gauss"), nn.Conv2d(4, 2, 1))


def test_groups_hold_every_parameter_once_and_positions_learn_five_times_as_fast():
    net = model()
    groups = position_groups(net, lr=0.01, weight_decay=0.05)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    rates = {group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in groups}
    assert rates == {"weights": (0.01, 0.05, 4), "biases and norms": (0.01, 0.0, 5), "positions": (0.05, 0.0, 2)}


def test_the_factor_stays_through_a_schedule():
    net = model()
    optimizer = torch.optim.AdamW(position_groups(net, lr=0.01))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["weights"] == pytest.approx(0.005) and rates["positions"] == pytest.approx(5 * rates["weights"])


def test_positions_are_inside_after_every_step_once_hooked():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    handle = clamp_after_steps(optimizer, net)

    def leap():
        for part in layers_of(net):
            part.P.grad = torch.full_like(part.P, -100.0)
        optimizer.step()

    leap()
    assert all(part.P.eq(4).all() for part in layers_of(net))
    handle.remove()
    leap()
    assert all(part.P.gt(50).all() for part in layers_of(net))
    clamp_positions(net)
    assert all(part.P.eq(4).all() for part in layers_of(net))


def test_shared_positions_are_one_parameter_that_stays_one():
    net = nn.Sequential(layer(version="gauss"), layer(version="gauss"), layer(version="gauss"))
    share_positions(net)
    first, second, third = net
    assert first.P is second.P is third.P and first.SIG is third.SIG and first.weight is not second.weight
    assert [name for name, _ in net.named_parameters() if name.endswith(".P")] == ["0.P"]
    twin = copy.deepcopy(net)
    assert twin[0].P is twin[2].P and twin[0].P is not first.P
    optimizer = torch.optim.Adam(position_groups(twin, 0.1))
    twin(torch.randn(1, 4, 9, 9)).square().sum().backward()
    optimizer.step()
    assert torch.equal(twin[0].P, twin[2].P) and not torch.equal(twin[0].P, first.P)
    twin.to(torch.bfloat16)
    assert twin[0].P is twin[2].P and twin[0].P.dtype == torch.float32


def test_the_gradient_of_a_shared_position_is_the_sum_over_layers():
    torch.manual_seed(0)
    net = nn.Sequential(layer(), layer())
    net[1].load_state_dict(net[0].state_dict())
    x = torch.randn(2, 4, 9, 9)
    net(x).square().sum().backward()
    apart = net[0].P.grad + net[1].P.grad
    share_positions(net)
    net.zero_grad()
    net(x).square().sum().backward()
    torch.testing.assert_close(net[0].P.grad, apart)


@pytest.mark.parametrize("other", [{"m": 5}, {"version": "v0"}, {"variant": "reference"}])
def test_unequal_layers_cannot_share(other):
    with pytest.raises(UserError, match="within a stage"):
        share_positions([layer(), layer(**other)])


def test_repulsion_by_hand_and_its_push():
    part = layer(m=3)
    with torch.no_grad():
        part.P.zero_()
        part.P[0, :, :, 1], part.P[1, :, :, 2] = 0.6, 5.0  # one pair 0.6 pixels apart, two pairs far apart
    value = repulsion(part)
    assert value.item() == pytest.approx((0.4 * 2 / (3 * 2)) ** 2, rel=1e-5)
    value.backward()
    assert part.P.grad[0, 0, 0, 0] > 0 > part.P.grad[0, 0, 0, 1]  # a descent step parts them
    assert not part.P.grad[:, :, :, 2].any()


def test_repulsion_of_piled_up_and_of_single_elements_has_no_gaps():
    piled = layer(m=4)
    with torch.no_grad():
        piled.P.zero_()
    value = repulsion(piled)
    value.backward()
    assert value.item() == pytest.approx(1.0) and piled.P.grad.isfinite().all()
    assert repulsion(layer(m=1)).item() == 0.0


def test_a_shared_position_counts_once_in_the_repulsion():
    net = nn.Sequential(layer(), layer(), layer())
    alone = repulsion(nn.Sequential(net[0], net[2]))
    share_positions(net[:2])
    torch.testing.assert_close(repulsion(net), alone)


def test_a_model_without_dcls_is_refused():
    for work in (clamp_positions, repulsion, lambda net: position_groups(net, 0.1)):
        with pytest.raises(UserError, match="replace_depthwise"):
            work(nn.Linear(2, 2))
