import numpy as np
import pytest
import torch
from PIL import Image

from workbench.errors import UserError
from workbench.vision import images
from workbench.vision.images import read_image, square, to_scene, to_tensor
from workbench.vision.scenes import draw, render
from workbench.vision.sheets import beside, sheet, to_image

RAMP = np.tile(np.linspace(0, 255, 20).round().astype(np.uint8), (12, 1))  # (12, 20), dark to bright


def saved(tmp_path, image, name="p.png", **how):
    image.save(tmp_path / name, **how)
    return read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image.fromarray(RAMP), "grey.png"),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), "sixteen.png"),
        (Image.fromarray(RAMP.astype(np.int32) * 257), "integer.tif"),
        (Image.fromarray(RAMP.astype(np.float32) / 255), "share.tif"),
        (Image.fromarray(RAMP.astype(np.float32)), "float.tif"),
        (Image.fromarray(RAMP).convert("LA"), "alpha.png"),
        (Image.fromarray(RAMP).convert("RGBA"), "rgba.png"),
        (Image.fromarray(RAMP).convert("P"), "palette.gif"),
        (Image.fromarray(RAMP).convert("CMYK"), "print.tif"),
    ],
)  # fmt: skip
def test_every_mode_becomes_the_same_rgb(tmp_path, image, name):
    found = saved(tmp_path, image, name)
    assert found.mode == "RGB" and found.size == (20, 12)
    np.testing.assert_allclose(np.asarray(found), np.repeat(RAMP[..., None], 3, 2), atol=3)


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    image.putpixel((3, 3), (255, 0, 0, 255))
    found = saved(tmp_path, image)
    assert found.getpixel((0, 0)) == (255, 255, 255) and found.getpixel((3, 3)) == (255, 0, 0)
    keyed = Image.new("P", (10, 10), 0)
    keyed.putpalette([0, 0, 0, 255, 0, 0])
    assert saved(tmp_path, keyed, "k.png", transparency=0).getpixel((5, 5)) == (255, 255, 255)


def test_black_and_white_and_several_frames(tmp_path):
    assert saved(tmp_path, Image.fromarray(RAMP).convert("1")).mode == "RGB"
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((4, 4)) == (254, 0, 0) or read_image(tmp_path / "a.gif").getpixel(
        (4, 4)
    ) == (255, 0, 0)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (30, 10), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90° to the right
    found = saved(tmp_path, image, "r.png", exif=exif)
    assert found.size == (10, 30)
    assert found.getpixel((5, 3)) == (0, 0, 0) and found.getpixel((5, 27)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.png", None, "There is no picture"), ("empty.png", b"", "0 bytes"), ("text.png", b"hello " * 50, "not a picture"),
        ("cut.png", "cut", "damaged or cut off"), ("small.png", (7, 40), "at least 8"), ("big.png", "big", "million pixels"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(tmp_path, monkeypatch, name, content, words):
    path = tmp_path / name
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif content == "big":
        monkeypatch.setattr(images, "LARGEST", 100)
        Image.new("RGB", (20, 20)).save(path)
    elif isinstance(content, tuple):
        Image.new("RGB", content).save(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_image(path)


def test_a_folder_and_values_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match="There is no picture"):
        read_image(tmp_path)
    with pytest.raises(UserError, match="not numbers"):
        saved(tmp_path, Image.fromarray(np.full((9, 9), np.nan, np.float32)), "n.tif")


def test_square_takes_the_middle(tmp_path):
    image = Image.new("RGB", (30, 10), "white")
    image.paste("red", (10, 0, 20, 10))
    assert set(square(image, 10).get_flattened_data()) == {(255, 0, 0)}
    assert to_tensor(square(image, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("zoom", [1, 4, 8])
def test_a_saved_scene_comes_back_exactly(tmp_path, zoom):
    picture = render(*draw(1, torch.Generator().manual_seed(2)))
    back = to_scene(saved(tmp_path, to_image(picture, zoom)))
    assert (back - picture).abs().max() <= 0.5 / 127.5 + 1e-6


def test_sheets_have_the_size_they_should():
    pictures = render(*draw(5, torch.Generator().manual_seed(2)))
    assert sheet(pictures, 3, zoom=2, gap=4).size == (3 * 68 - 4, 2 * 68 - 4)
    assert beside([to_image(p, 1) for p in pictures[:2]], gap=8).size == (72, 32)
