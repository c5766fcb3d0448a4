import subprocess
import sys

import pytest

import workbench.evaluation as room
from workbench.errors import UserError
from workbench.evaluation import job


def test_importing_the_room_loads_no_torch():
    code = "import sys, workbench.evaluation.job; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_mean_functions_whatever_was_imported_first():
    import importlib

    importlib.import_module("workbench.evaluation.perplexity")
    importlib.import_module("workbench.evaluation.compare")
    assert all(callable(getattr(room, name)) for name in room.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = room.nothing


def test_labels_are_short_and_distinct():
    assert job.labels(["tiny-lm", "runs/a/tuned"]) == {"tiny-lm": "tiny-lm", "tuned": "runs/a/tuned"}
    assert list(job.labels(["runs/a/tuned", "runs/b/tuned"])) == ["a/tuned", "b/tuned"]
    with pytest.raises(UserError, match="named twice"):
        job.labels(["a", "b", "a"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"models": []}, "list of names"),
        ({"models": ["a"], "window": 1, "items": 0}, "window is 1.*items is 0"),
        ({"models": ["a"], "tokens": "many"}, "tokens is 'many'"),
        ({"models": ["a"], "colour": 1}, "no setting 'colour'"),
    ],
)
def test_settings_are_refused_before_anything_loads(config, words):
    with pytest.raises(UserError, match=words):
        job.check({**job.DEFAULTS, **config})
