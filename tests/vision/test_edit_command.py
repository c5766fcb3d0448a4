import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from workbench.commands.edit import edit as command
from workbench.errors import UserError
from workbench.vision.editing import edit
from workbench.vision.images import read_image
from workbench.vision.mini_diffusion import load_miniature, load_reader
from workbench.vision.recognise import LIMIT, distance_to_scene
from workbench.vision.scenes import draw, render
from workbench.vision.sheets import to_image

QUICK = {"steps": 2, "painting_steps": 2}


@pytest.fixture
def scene_file(tmp_path):
    import torch

    to_image(render(*draw(1, torch.Generator().manual_seed(3)))).save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_the_command_writes_edit_strip_and_lora(tmp_path):
    out = tmp_path / "new.png"
    words = ["--scene", "a red star on sand", "--prompt", "a red star with a sun", "--steps", "2", "--strip", "--json"]
    result = CliRunner().invoke(
        command, [*words, "-o", str(out), "--lora", str(tmp_path / "lora")], catch_exceptions=False
    )
    told = json.loads(result.stdout)
    assert read_image(told["edit"]).size == read_image(told["original"]).size == (256, 256)
    assert read_image(told["strip"]).size == (7 * 264 - 8, 256) and told["etas"][0] == "original"
    assert told["trainable"] > 1000 and told["lora"].endswith("pytorch_lora_weights.safetensors")
    plain = CliRunner().invoke(command, [*words[:-2], "-o", str(out)], catch_exceptions=False)
    assert "fitted" in plain.stdout and "noise steps" in plain.stdout


def test_a_scene_from_a_file_is_edited_and_seeds_decide(scene_file):
    one, again, other = (edit(scene_file, "a blue heart", seed=seed, **QUICK)["pictures"] for seed in (0, 0, 1))
    assert one.shape == (1, 3, 32, 32) and (one == again).all() and not (one == other).all()


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_is_refused_by_the_miniature_and_the_message_says_why(name, tmp_path):
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image(name)).save(tmp_path / name)
    with pytest.raises(
        UserError, match=rf"{name} is not one of the miniature's scenes.*photographs need a real .*--model FOLDER"
    ):
        edit(tmp_path / name, "a red star", **QUICK)


def test_scenes_are_recognised_and_noise_is_not():
    import torch

    reader = load_reader()
    pictures = render(*draw(40, torch.Generator().manual_seed(8), everything=True))
    assert sum(distance_to_scene(p[None], reader)[0] < LIMIT for p in pictures) >= 39
    noise = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert all(distance_to_scene(p[None], reader)[0] > LIMIT for p in noise)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prompt": ""}, "The prompt is empty"), ({"prompt": "a red dog"}, "does not know 'dog'"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"eta": 2.0}, "eta is 2.0"), ({"steps": 0}, "steps 0"), ({"rank": 0}, "rank 0"), ({"guidance": 0.2}, "guidance 0.2"),
        ({"timesteps": "sematic"}, "did you mean semantic"), ({"augment": "spin"}, "no augmentation"),
        ({"scene": None}, "one of the two"), ({"scene": "a red dog"}, "does not know 'dog'"),
        ({"model": "nowhere"}, "--scene draws a picture for the miniature"),
        ({"model": "nowhere", "scene": None, "image": "x.png"}, "no folder nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_model_is_loaded(how, words, monkeypatch):
    monkeypatch.setattr("workbench.vision.mini_diffusion.build_unet", lambda: pytest.fail("a model was built"))
    given = {"image": None, "prompt": "a red star", "scene": "a red star on sand", **how}
    with pytest.raises(UserError, match=words):
        edit(given.pop("image"), given.pop("prompt"), **given)


@pytest.mark.parametrize(("out", "words"), [("edit.txt", "no picture ending"), ("none/edit.png", "no folder")])
def test_a_bad_target_is_refused_first(out, words, tmp_path):
    with pytest.raises(UserError, match=words):
        CliRunner().invoke(
            command, ["--scene", "a star", "--prompt", "a heart", "-o", str(tmp_path / out)], catch_exceptions=False
        )


def test_an_edit_on_the_miniature_takes_seconds(scene_file):
    result = edit(scene_file, "a red star on sand", seed=0)
    assert sum(result["seconds"].values()) < 30  # 6 s on an idle core; room for a busy one
    assert result["losses"][-1] < result["losses"][0] * 2


def test_an_edited_scene_can_be_edited_again(tmp_path):
    first = edit(None, "a red star on grass", scene="a red star on sand", eta=0.0)
    first["edit"].save(tmp_path / "first.png")
    assert np.asarray(read_image(tmp_path / "first.png")).shape == (256, 256, 3)
    assert edit(tmp_path / "first.png", "a red star on grass", **QUICK)["pictures"].isfinite().all()


def test_the_shipped_base_is_frozen():
    assert not any(p.requires_grad for p in load_miniature().unet.parameters())
