"""A real base: a local image-variation checkpoint in diffusers' folder layout, and the CLIP text encoder that matches it.

    FOLDER/model_index.json                StableDiffusionImageVariationPipeline
    FOLDER/unet, FOLDER/vae                config.json, diffusion_pytorch_model.safetensors
    FOLDER/image_encoder                   config.json, model.safetensors
    FOLDER/scheduler                       scheduler_config.json
    FOLDER/text_encoder, FOLDER/tokenizer  CLIP text model with projection; or any CLIP folder named on its own

Everything is checked from the small JSON files before a weight is read: parts, formats, and that pictures' and words' features
have the width that the U-Net attends to. Nothing is ever downloaded, and pickled weights (`.bin`) are refused, since loading
one runs whatever is in it. Source: `lambdalabs/sd-image-variations-diffusers` v2.0 (CLIP ViT-L/14, width 768) is FastEdit's
base (arXiv 2408.03355); its 224-pixel preprocessing is bicubic without antialiasing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from workbench.errors import UserError
from workbench.vision import need_diffusers

PIPELINE = "StableDiffusionImageVariationPipeline"
PARTS = {  # folder: (config file, stem of the weights)
    "unet": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
    "image_encoder": ("config.json", "model"),
    "scheduler": ("scheduler_config.json", ""),
}
LAYOUT = (
    "expected: model_index.json, unet/, vae/, image_encoder/ (config.json and .safetensors in each), scheduler/, and "
    "text_encoder/ with tokenizer/ (or --text-encoder CLIP_FOLDER)"
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP
USUAL = (0.70, 0.86)  # 1 − cos of matching pictures and captions under ViT-L/14 lies about here


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}); copy the checkpoint again.") from error


def _weights(folder: Path, stem: str) -> str | None:
    """`""` or the variant (`fp16`) whose safetensors are there; None when there are none."""
    for variant in ("", "fp16"):
        name = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
        if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
            return variant
    return None


def check_folder(folder: Path | str, text_encoder: Path | str | None = None) -> dict[str, Any]:
    """Check a checkpoint's layout without loading a weight.

    Args:
        folder: the checkpoint.
        text_encoder: a CLIP folder for words, when the checkpoint has none.

    Returns:
        words (folder of the text model), tokenizer (its folder), width, side (pixels), variants.

    Raises:
        UserError: with everything that is missing at once, and the layout that is expected.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give a local checkpoint in diffusers' layout ({LAYOUT}).")
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} has no model_index.json, so it is no diffusers checkpoint; {LAYOUT}.")
    kind = _read(index).get("_class_name", "nothing")
    if kind != PIPELINE:
        raise UserError(
            f"{folder} holds a {kind}; FastEdit needs a {PIPELINE}, whose U-Net reads picture features "
            "(for example sd-image-variations-diffusers v2.0). A text-to-image checkpoint reads words only."
        )
    words = Path(text_encoder) if text_encoder else folder / "text_encoder"
    tokenizer = words if text_encoder else folder / "tokenizer"
    missing, variants = [], {}
    for part, (config, stem) in {**PARTS, "text_encoder": ("config.json", "model")}.items():
        place = words if part == "text_encoder" else folder / part
        if not (place / config).is_file():
            missing.append(f"{place.name}/{config}")
        if stem:
            variants[part] = _weights(place, stem)
            if variants[part] is None:
                pickled = any(place.glob("*.bin"))
                reason = " (only pickled .bin is there; save it again with safe_serialization=True)" if pickled else ""
                missing.append(f"{place.name}/{stem}.safetensors{reason}")
    if not any((tokenizer / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        missing.append(f"{tokenizer.name}/tokenizer.json or vocab.json")
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}; {LAYOUT}.")
    unet, vae = _read(folder / "unet" / "config.json"), _read(folder / "vae" / "config.json")
    image, text = _read(folder / "image_encoder" / "config.json"), _read(words / "config.json")
    if "CLIPTextModel" in text.get("architectures", []):
        raise UserError(f"{words} is a text model without projection; give CLIP's own (CLIPTextModelWithProjection).")
    sizes = {
        "the U-Net attends to": unet.get("cross_attention_dim"),
        "pictures give": image.get("projection_dim"),
        "words give": text.get("projection_dim"),
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"The parts of {folder} do not fit: {told} numbers; all three must be the same.")
    side = int(unet.get("sample_size") or 64) * 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
    return {"words": words, "tokenizer": tokenizer, "width": sizes["words give"], "side": side, "variants": variants}


class Checkpoint:
    """A loaded image-variation checkpoint as a base for editing; see `fastedit.Base`."""

    def __init__(self, parts: dict[str, Any], side: int, name: str) -> None:
        self.unet, self.vae, self.scheduler = parts["unet"], parts["vae"], parts["scheduler"]
        self.image_encoder, self.text_encoder, self.tokenizer = parts["image"], parts["text"], parts["tokenizer"]
        self.side, self.name = side, name
        at = int(self.unet.config.sample_size)
        self.shape = (self.unet.config.in_channels, at, at)
        self.deltas = torch.linspace(*USUAL, 101)
        self.device = next(self.unet.parameters()).device

    @torch.no_grad()
    def image_feature(self, picture: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) in −1 … 1 → `image_embeds`, projected and not normalised, (1, 1, D)."""
        side = self.image_encoder.config.image_size
        small = interpolate(picture.to(self.device), (side, side), mode="bicubic", align_corners=False).clamp(-1, 1)
        mean, std = (small.new_tensor(v)[None, :, None, None] for v in (MEAN, STD))
        return self.image_encoder(pixel_values=((small + 1) / 2 - mean) / std).image_embeds[:, None]

    @torch.no_grad()
    def text_feature(self, text: str) -> torch.Tensor:
        """`text_embeds` of a prompt, (1, 1, D)."""
        if not text.strip():
            raise UserError("The prompt is empty; describe the picture you want, for example: a dog that sits.")
        ids = self.tokenizer(text, return_tensors="pt", truncation=True, max_length=self.tokenizer.model_max_length)
        if ids["input_ids"].shape[1] >= self.tokenizer.model_max_length:
            raise UserError(
                f"The prompt is longer than the {self.tokenizer.model_max_length} tokens CLIP reads; shorten it."
            )
        return self.text_encoder(**ids.to(self.device)).text_embeds[:, None]

    def discrepancy(self, picture: torch.Tensor, text: str) -> float:
        """δ = 1 − cos(e_I, e_T)."""
        return 1.0 - float(torch.cosine_similarity(self.image_feature(picture), self.text_feature(text), dim=-1))

    @torch.no_grad()
    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        """(B, 3, side, side) → scaled latents (B, C, h, w), the mode of the encoder's distribution."""
        return self.vae.encode(picture.to(self.device)).latent_dist.mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → (B, 3, side, side) in −1 … 1."""
        return self.vae.decode(z / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def predict(self, unet: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """The U-Net's output for noisy latents, steps and tokens."""
        return unet(z, t, encoder_hidden_states=e, return_dict=False)[0]


def load_checkpoint(
    folder: Path | str, text_encoder: Path | str | None = None, device: str | None = None
) -> Checkpoint:
    """Load a checked folder in float32, frozen.

    Args:
        folder, text_encoder: see `check_folder`.
        device: torch device; by default the GPU when there is one.

    Raises:
        UserError: as `check_folder`, or diffusers is missing.
    """
    found = check_folder(folder, text_encoder)
    need_diffusers()
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection

    folder = Path(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def model(cls: Any, place: Path, part: str) -> Any:
        how = {"local_files_only": True, "use_safetensors": True, "variant": found["variants"][part] or None}
        made = cls.from_pretrained(place, torch_dtype=torch.float32, **how)
        return made.eval().requires_grad_(False).to(device)

    schedule = _read(folder / "scheduler" / "scheduler_config.json").get("_class_name", "")
    scheduler = PNDMScheduler if schedule == "PNDMScheduler" else DDIMScheduler
    parts = {
        "unet": model(UNet2DConditionModel, folder / "unet", "unet"),
        "vae": model(AutoencoderKL, folder / "vae", "vae"),
        "image": model(CLIPVisionModelWithProjection, folder / "image_encoder", "image_encoder"),
        "text": model(CLIPTextModelWithProjection, found["words"], "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(found["tokenizer"], local_files_only=True),
        "scheduler": scheduler.from_pretrained(folder / "scheduler", local_files_only=True),
    }
    return Checkpoint(parts, found["side"], Path(folder).name)
