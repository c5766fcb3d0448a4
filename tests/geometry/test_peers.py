import numpy as np
import pytest

from workbench.errors import UserError
from workbench.geometry.metrics import compare, rim_kept
from workbench.geometry.peers import ball_pivoting, open3d, screened_poisson
from workbench.geometry.shapes import scan, shape


@pytest.fixture(autouse=True)
def peers():
    try:
        open3d()
    except UserError as error:
        pytest.skip(str(error))


def test_poisson_closes_what_is_open_and_pivoting_does_not():
    which = shape("hemisphere")
    cloud = scan(which, 2000, "clean", np.random.default_rng(0))
    closed, pivoted = screened_poisson(cloud, depth=5), ball_pivoting(cloud)
    assert closed.areas.sum() > 1.2 * np.pi / 2 and rim_kept(closed, which.rim) < 0.2
    assert rim_kept(pivoted, which.rim) > 0.8
    assert compare(pivoted, *which.sample(4000, np.random.default_rng(1)), which.distance)["f1@0.01"] > 0.9


def test_the_solver_prints_nothing(capfd):
    screened_poisson(scan(shape("hemisphere"), 600, "clean", np.random.default_rng(0)), depth=4)
    told = capfd.readouterr()
    assert not told.out and not told.err
