"""Picture files: torchvision's preset to the last bit, every Pillow mode, one clear line for what is no picture."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common.torchvision_import import import_torchvision
from common.versions import load_version

image = load_version("v1_loops").image  # byte-identical in every version: tests/test_steps.py
import_torchvision()
from torchvision.transforms._presets import ImageClassification  # noqa: E402

SKIMAGE = Path(skimage.data.__file__).parent
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "images"
PHOTOGRAPHS = [SKIMAGE / name for name in ("chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "camera.png")]
PHOTOGRAPHS += sorted(SHARED.glob("*.jpg"))
PRESETS = [
    {"resize": 232, "crop": 224, "interpolation": "bilinear"},
    {"resize": 256, "crop": 224, "interpolation": "bilinear"},
    {"resize": 65, "crop": 64, "interpolation": "bicubic"},
]
NORMALISATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PREPROCESSING = PRESETS[0] | NORMALISATION


def torchvision_preset(picture, preset):
    """(crop, crop, 3) float32, as torchvision makes it of an upright RGB picture."""
    from torchvision.transforms.functional import InterpolationMode

    interpolation = InterpolationMode(preset["interpolation"])
    transform = ImageClassification(
        crop_size=preset["crop"], resize_size=preset["resize"], interpolation=interpolation, **NORMALISATION
    )
    return transform(picture).numpy().transpose(1, 2, 0)


def upright(path):
    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: f"{preset['resize']}-{preset['crop']}")
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_equals_torchvision_on_photographs(path, preset):
    found = image.load_image(path, preset | NORMALISATION)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, torchvision_preset(upright(path), preset))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**32 - 1))
def test_equals_torchvision_for_any_size(width, height, seed, tmp_path):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    preset = {"resize": 70, "crop": 64, "interpolation": "bilinear"}
    found = image.load_image(path, preset | NORMALISATION)
    np.testing.assert_array_equal(found, torchvision_preset(Image.fromarray(pixels), preset))


def photograph(mode):
    return Image.open(SKIMAGE / "chelsea.png").convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_any_mode_becomes_rgb(mode, tmp_path):
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr", "LAB") else "picture.png")
    photograph(mode).save(path)
    found = image.load_image(path, PREPROCESSING)
    np.testing.assert_array_equal(found, torchvision_preset(upright(path), PRESETS[0]))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_gray_keeps_its_levels(suffix, tmp_path):
    levels = np.asarray(photograph("L"))
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(levels.astype(np.uint16) * 257).save(path)
    expected = torchvision_preset(Image.fromarray(levels).convert("RGB"), PRESETS[0])
    np.testing.assert_array_equal(image.load_image(path, PREPROCESSING), expected)


def test_exif_orientation_is_applied(tmp_path):
    picture = photograph("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    path = tmp_path / "turned.png"
    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    np.testing.assert_array_equal(image.load_image(path, PREPROCESSING), torchvision_preset(picture, PRESETS[0]))


def test_an_animation_shows_its_first_picture(tmp_path):
    first, second = photograph("P"), photograph("P").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    path = tmp_path / "moving.gif"
    first.save(path, save_all=True, append_images=[second])
    found = image.load_image(path, PREPROCESSING)
    np.testing.assert_array_equal(found, torchvision_preset(upright(path), PRESETS[0]))


@pytest.mark.parametrize("size", [(1, 1), (5000, 300), (300, 5000)])
def test_odd_sizes_work(size, tmp_path):
    path = tmp_path / "odd.png"
    Image.new("RGB", size, (200, 10, 30)).save(path)
    found = image.load_image(path, PREPROCESSING)
    expected = (np.array([200, 10, 30], np.float32) / 255 - NORMALISATION["mean"]) / NORMALISATION["std"]
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-6)


def one_line_error(path):
    with pytest.raises(image.ImageError) as caught:
        image.load_image(path, PREPROCESSING)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_a_very_narrow_picture_is_refused(tmp_path):
    path = tmp_path / "narrow.png"
    Image.new("L", (1, 5000)).save(path)
    assert "1x5000" in one_line_error(path)


def test_a_decompression_bomb_is_refused(tmp_path):
    for side in (10_000, 20_000):  # Pillow only warns about the first
        path = tmp_path / f"bomb{side}.png"
        Image.new("1", (side, side)).save(path)
        assert "exceeds limit" in one_line_error(path)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("this is not a picture\n")
    (tmp_path / "float.tif").write_bytes(b"")
    Image.new("F", (40, 40)).save(tmp_path / "float.tif")
    for name in ("empty.jpg", "text.jpg", "missing.jpg", "float.tif", "."):
        one_line_error(tmp_path / name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(["png", "jpg", "gif", "tif", "bmp", "webp"]))
def test_damaged_files_are_pictures_or_one_line(data, suffix, tmp_path):
    buffer = io.BytesIO()
    photograph("RGB").resize((40, 30)).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content)
    try:
        found = image.load_image(path, PREPROCESSING)
    except image.ImageError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == (224, 224, 3) and np.isfinite(found).all()


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "half.jpg"
    photograph("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in one_line_error(path)
