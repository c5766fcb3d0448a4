import json
import shutil

import pytest
import torch
from PIL import Image

from workbench.errors import UserError
from workbench.vision.editing import edit
from workbench.vision.fastedit import FastEdit, trainable_formula
from workbench.vision.real import check_folder, load_checkpoint


@pytest.fixture
def copied(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_a_whole_folder_passes_and_says_what_it_is(checkpoint):
    found = check_folder(checkpoint)
    assert found["width"] == 12 and found["side"] == 16
    assert found["variants"] == {"unet": "", "vae": "", "image_encoder": "", "text_encoder": ""}


def test_the_layout_is_checked_and_explained_before_anything_is_loaded(copied, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.vision.real.need_diffusers", lambda: pytest.fail("loading began"))
    with pytest.raises(UserError, match=r"no folder.*expected: model_index"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model_index\.json"):
        load_checkpoint(tmp_path / "empty")
    (copied / "vae" / "diffusion_pytorch_model.safetensors").rename(copied / "vae" / "diffusion_pytorch_model.bin")
    shutil.rmtree(copied / "text_encoder")
    shutil.rmtree(copied / "scheduler")
    with pytest.raises(UserError) as told:
        load_checkpoint(copied)
    for words in (
        "only pickled .bin is there",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "--text-encoder",
    ):
        assert words in str(told.value)


def test_another_pipeline_a_broken_file_and_a_text_model_without_projection_are_refused(copied):
    index = copied / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match=r"holds a StableDiffusionPipeline; FastEdit needs a .*reads words only"):
        check_folder(copied)
    index.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        check_folder(copied)
    index.write_text(json.dumps({"_class_name": "StableDiffusionImageVariationPipeline"}))
    config = json.loads((copied / "text_encoder" / "config.json").read_text())
    (copied / "text_encoder" / "config.json").write_text(json.dumps({**config, "architectures": ["CLIPTextModel"]}))
    with pytest.raises(UserError, match="without projection"):
        check_folder(copied)


def test_widths_that_do_not_fit_are_refused(write_checkpoint, tmp_path):
    with pytest.raises(UserError, match="U-Net attends to 24, pictures give 12, words give 12"):
        check_folder(write_checkpoint(tmp_path, width=24))


def test_words_may_come_from_another_folder(copied, checkpoint, tmp_path):
    words = tmp_path / "clip"
    shutil.move(copied / "text_encoder", words)
    for file in (copied / "tokenizer").iterdir():
        shutil.copy(file, words / file.name)
    shutil.rmtree(copied / "tokenizer")
    base, other = load_checkpoint(copied, words, "cpu"), load_checkpoint(checkpoint, device="cpu")
    torch.testing.assert_close(base.text_feature("a dog"), other.text_feature("a dog"))


def test_features_are_projected_and_one_token_each(checkpoint):
    base = load_checkpoint(checkpoint, device="cpu")
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    assert base.image_feature(picture).shape == base.text_feature("a dog").shape == (1, 1, 12)
    assert base.encode(picture).shape == (1, 4, 8, 8) and base.decode(base.encode(picture)).shape == picture.shape
    for prompt, words in (("  ", "prompt is empty"), ("dog " * 30, "longer than the 20 tokens")):
        with pytest.raises(UserError, match=words):
            base.text_feature(prompt)


def test_the_whole_way_with_pndm_and_a_lora_that_diffusers_loads(checkpoint, tmp_path):
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    base = load_checkpoint(checkpoint, device="cpu")
    expected = trainable_formula(base.unet, 4)
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    session = FastEdit(base).fit(picture, "a dog", steps=3, rank=4, rate=0.05)
    assert session.trainable == expected
    made = session.edit(0.5, steps=4, guidance=2.0)
    assert made.shape == (1, 3, 16, 16) and made.isfinite().all()
    assert torch.equal(session.edit(0.5, steps=4, guidance=2.0), made)
    session.save_lora(tmp_path)
    noisy, t, e = torch.randn(1, 4, 8, 8), torch.tensor([400]), torch.randn(1, 1, 12)
    with torch.no_grad():
        tuned = base.predict(base.unet, noisy, t, e)
        session.close()
        words = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=60, hidden_size=12, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
            )
        )
        pipeline = StableDiffusionPipeline(
            base.vae, words, base.tokenizer, base.unet, base.scheduler, None, None, requires_safety_checker=False
        )
        assert not torch.allclose(base.predict(base.unet, noisy, t, e), tuned, atol=1e-4)
        pipeline.load_lora_weights(tmp_path)
        torch.testing.assert_close(base.predict(base.unet, noisy, t, e), tuned)


def test_a_photograph_goes_through_with_a_real_checkpoint(checkpoint, tmp_path):
    Image.radial_gradient("L").resize((50, 30)).save(tmp_path / "photo.png")
    told = []
    result = edit(
        tmp_path / "photo.png", "a dog", model=str(checkpoint), etas=(0.0, 1.0), steps=2, rank=2, painting_steps=2,
        lora=str(tmp_path / "lora"), progress=lambda done, total, text: told.append(done / total),
    )  # fmt: skip
    assert result["edit"].size == result["original"].size == (16, 16) and list(result["strip"]) == [0.0, 1.0]
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert told == sorted(told) and told[-1] == 1
    with pytest.raises(UserError, match="give a picture file to a real checkpoint"):
        edit(None, "a dog", scene="a red star", model=str(checkpoint))
