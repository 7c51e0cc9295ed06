"""The image that transforms work on, against Pillow's."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, photograph
from PIL import Image

from passl.datasets.images import resampling
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.transforms.crops import RandomCrop, RandomResizedCrop
from passl.datasets.transforms.flips import RandomHorizontalFlip, RandomVerticalFlip

FILTERS = [
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
]


def resized_by_pillow(pixels, size, resample, box=None, window=None):
    image = Image.fromarray(pixels).crop(box or (0, 0, pixels.shape[1], pixels.shape[0]))
    return np.asarray(image.resize(size, resample).crop(window or (0, 0, *size)))


def span(rng, length):
    """Returns a part of ``range(length)`` that is not empty, often all of it."""
    low, high = sorted(rng.integers(0, length, 2).tolist())
    return (0, length) if rng.random() < 0.3 else (low, high + 1)


@pytest.mark.smoke
@pytest.mark.parametrize("seed", range(4))
def test_resizing_gives_pillows_pixels_for_any_shapes(seed):
    """Sides of 1 to 500, shrunk and enlarged; noise, and steps that overshoot black and white."""
    rng = np.random.default_rng(seed)
    for turn in range(300):
        width, height, *size = np.exp(rng.uniform(0, [6.2, 6.2, 5.6, 5.6])).astype(int).tolist()
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        if turn % 2:
            pixels = (pixels // 128 * 255).astype(np.uint8)
        (left, right), (upper, lower) = span(rng, width), span(rng, height)
        (begin, end), (top, bottom) = span(rng, size[0]), span(rng, size[1])
        box, window = (left, upper, right, lower), (begin, top, end, bottom)
        case = tuple(size), FILTERS[turn % 4], box, window
        found = np.asarray(RgbImage(pixels).resize(*case).pixels)
        expected = resized_by_pillow(pixels, *case)
        np.testing.assert_array_equal(found, expected, err_msg=f"{width}×{height} {case}")


def test_crops_of_a_photograph_are_pillows():
    image = photograph()
    rng = np.random.default_rng(0)
    transform = RandomResizedCrop(224)
    for _ in range(40):
        box = transform.box(*image.size, rng)
        expected = resized_by_pillow(np.asarray(image), (224, 224), Image.Resampling.BICUBIC, box)
        found = RgbImage(np.asarray(image)).resize((224, 224), Image.Resampling.BICUBIC, box)
        np.testing.assert_array_equal(found.pixels, expected)


def test_the_common_case_does_not_go_through_pillow(monkeypatch):
    assert resampling._pillows_order() is not None
    pixels = np.asarray(photograph())
    monkeypatch.setattr(Image, "fromarray", lambda pixels: pytest.fail("the slow way"))
    for resample in FILTERS[1:3]:
        RgbImage(pixels).resize((341, 256), resample, window=(58, 16, 282, 240))
        RgbImage(pixels).resize((224, 224), resample, box=(10, 10, 200, 300))


def test_where_pillow_is_another_one_it_resizes_itself(monkeypatch, caplog):
    """Should its arithmetic change, its own pixels are what published accuracies go with."""
    pixels = np.asarray(photograph())
    case = (341, 256), Image.Resampling.BICUBIC
    expected = resized_by_pillow(pixels, *case)
    monkeypatch.setattr(resampling, "_SUPPORT", {Image.Resampling.BICUBIC: 1.0})
    resampling._pillows_order.cache_clear()
    try:
        np.testing.assert_array_equal(RgbImage(pixels).resize(*case).pixels, expected)
        assert "resizes in a way of its own" in caplog.text
    finally:
        resampling._pillows_order.cache_clear()


def test_it_works_where_nothing_can_be_written(tmp_path):
    """numba keeps what it compiled; a container of another user gives it no place to."""
    code = (
        "import numba.core.caching as c\n"
        "getattr(c, 'CacheImpl', getattr(c, '_CacheImpl', None))._locator_classes = []\n"
        "from passl.datasets.images import resampling\n"
        "print(resampling._pillows_order() is not None)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.stdout.strip() == "True", result.stderr


def test_shrinking_is_antialiased():
    """Stripes of one pixel, black and white, become grey and not a pattern of their own."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = RgbImage(stripes).resize((100, 100), Image.Resampling.BICUBIC).pixels
    assert np.abs(small.astype(int) - 127).max() < 30
    assert set(np.unique(stripes[::5, ::5][:100, :100])) == {0, 255}, "plain picking would"


@pytest.mark.parametrize(
    "transform",
    [
        RandomCrop(64, padding=8),
        RandomCrop(64, padding=8, fill=255),
        RandomHorizontalFlip(1.0),
        RandomHorizontalFlip(0.0),
        RandomVerticalFlip(1.0),
    ],
)
def test_other_transforms_give_the_pixels_that_a_pil_image_would(transform):
    image = photograph(size=(70, 66))
    for seed in range(8):
        one, other = (
            np.asarray(transform({"image": picture}, np.random.default_rng(seed))["image"])
            for picture in (image, RgbImage(np.asarray(image)))
        )
        np.testing.assert_array_equal(one, other)


def test_images_taller_than_a_hundred_times_their_width_are_left_to_pillow(monkeypatch):
    """There are versions of Pillow that resize those in another way."""
    small = Image.Resampling.BILINEAR
    resampling.resize(np.zeros((4, 4, 3), np.uint8), (2, 2), small)  # compares itself with Pillow
    asked, resize = [], Image.Image.resize

    def noted(self, *arguments, **more):
        asked.append(self.size)
        return resize(self, *arguments, **more)

    monkeypatch.setattr(Image.Image, "resize", noted)
    for width, height in ((1, 101), (1, 100), (3, 301), (3, 300), (101, 1)):
        resampling.resize(np.zeros((height, width, 3), np.uint8), (5, 5), small)
    assert asked == [(1, 101), (3, 301)]
