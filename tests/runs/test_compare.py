"""Only what differs."""

import pytest

from workbench.runs import compare_configs, differences


def test_differences_from_the_defaults():
    defaults = {"rank": 8, "flag": 1, "data": {"name": "sotu", "limit": None}, "targets": ["q", "v"], "unused": 3}
    config = {"rank": 16, "flag": True, "data": {"name": "sotu", "limit": 5}, "targets": ("q", "v"), "extra": 0}
    assert differences(config, defaults) == {
        "rank": {"value": 16, "default": 8},
        "flag": {"value": True, "default": 1},
        "data.limit": {"value": 5, "default": None},
        "extra": {"value": 0},
    }
    assert differences(defaults, defaults) == {}


@pytest.fixture
def runs(store):
    configs = [{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, {"a": 1, "b": {"c": 2}, "d": None}]
    return [store.submit("selftest", config, start=False) for config in configs]


def test_only_the_settings_in_which_runs_differ(runs):
    first, second, third = (run.id for run in runs)
    assert compare_configs(runs) == {"b.c": {first: 2, second: 3, third: 2}, "d": {third: None}}
    assert compare_configs(runs[:1]) == {} and compare_configs([]) == {}


def test_runs_of_different_jobs_say_so(store, runs):
    other = store.submit("reproduce", {"a": 1, "b": {"c": 2}}, start=False)
    assert compare_configs([runs[0], other]) == {"job": {runs[0].id: "selftest", other.id: "reproduce"}}
