"""Two small bases: an untrained miniature, and a tiny image-variation checkpoint written to disk part by part."""

import json

import pytest
import torch

from workbench.vision.mini_diffusion import Miniature, build_unet
from workbench.vision.miniclip import MiniCLIP
from workbench.vision.scenes import render, scene

pytest.importorskip("diffusers")
FITTING = {"shape": "star", "colour": "red", "background": "sand"}


@pytest.fixture
def base():
    torch.manual_seed(0)
    reference = {"deltas": [0.1, 0.2, 0.3, 0.4], "gap": [0.0] * 64}
    unet = build_unet().eval().requires_grad_(False)
    return Miniature(unet, MiniCLIP().eval().requires_grad_(False), reference)


@pytest.fixture
def picture():
    return render(scene(**FITTING))


def tiny_unet(width=12):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2,
    )  # fmt: skip


def written(folder, width=12, words=12):
    """A checkpoint in the layout of `StableDiffusionImageVariationPipeline`, with random weights."""
    from diffusers import AutoencoderKL, PNDMScheduler
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny_unet(width).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    ).save_pretrained(folder / "vae")  # fmt: skip
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8, projection_dim=12)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    text = CLIPTextConfig(
        **small,
        vocab_size=60,
        projection_dim=words,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        max_position_embeddings=20,
    )
    CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder")
    PNDMScheduler(skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    letters = [c + end for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 20, "bos_token": "<|startoftext|>"}
    settings |= {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionImageVariationPipeline"}))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return written(tmp_path_factory.mktemp("variation"))


@pytest.fixture
def write_checkpoint():
    return written
