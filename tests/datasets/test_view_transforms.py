"""Blur, greyscale and solarisation against Pillow, SciPy and the papers' numbers."""

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from passl.datasets import TRANSFORMS
from passl.datasets.images.rgb_image import RgbImage
from passl.utils.errors import PasslError

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
SMOOTH = ndimage.gaussian_filter(PIXELS.astype(float), (2, 2, 0)).clip(0, 255).astype(np.uint8)


def made(name, seed=0, pixels=PIXELS, **arguments):
    transform = TRANSFORMS.build({"name": name, **arguments})
    sample = transform({"image": RgbImage(pixels), "label": 3}, np.random.default_rng(seed))
    assert sample["label"] == 3
    return np.asarray(sample["image"])


def sigma_of(seed, low=0.1, high=2.0):
    rng = np.random.default_rng(seed)
    rng.random()  # whether it is done
    return rng.uniform(low, high)


@pytest.mark.smoke
@pytest.mark.parametrize("seed", range(3))
def test_blur_is_pillows(seed):
    expected = Image.fromarray(PIXELS).filter(ImageFilter.GaussianBlur(sigma_of(seed)))
    np.testing.assert_array_equal(made("GaussianBlur", seed, probability=1.0), np.array(expected))


@pytest.mark.parametrize("kernel_size", [None, 3, 23])
@pytest.mark.parametrize("border", ["mirror", "zeros"])
@pytest.mark.parametrize("seed", range(3))
def test_blur_by_the_exact_kernel(seed, border, kernel_size):
    """Of 64 rows a tenth, made odd: 7; 23 of 224."""
    arguments = {"probability": 1.0, "method": "kernel", "kernel_size": kernel_size}
    if border != "mirror":  # the default
        arguments["border"] = border
    radius = {None: 3, 3: 1, 23: 11}[kernel_size]
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma_of(seed) ** 2))
    kernel /= kernel.sum()
    outside = {"mirror": "reflect", "zeros": "constant"}[border]
    expected = PIXELS.astype(np.float64)
    for axis in (0, 1):
        expected = ndimage.correlate1d(expected, kernel, axis=axis, mode=outside)
    found = made("GaussianBlur", seed, **arguments).astype(float)
    assert np.abs(found - expected).max() < 0.51
    if border == "zeros":
        if kernel_size == 23:
            white = np.full((64, 64, 3), 255, np.uint8)
            dark = made("GaussianBlur", pixels=white, sigma=[2.0, 2.0], **arguments)
            assert dark[0, 32, 0] == dark[32, 63, 1] == 153 and dark[32, 32, 2] == 255
        return
    flat = np.full((64, 64, 3), 200, np.uint8)
    np.testing.assert_array_equal(made("GaussianBlur", seed, flat, **arguments), flat)
    if kernel_size == 23:  # long enough to be whole
        whole = ndimage.gaussian_filter(SMOOTH.astype(float), (sigma_of(seed),) * 2 + (0,))
        found = made("GaussianBlur", seed, SMOOTH, **arguments)
        assert np.abs(found - whole).max() < 0.6


@pytest.mark.parametrize("axis", [0, 1])
def test_the_kernel_of_224_pixels(axis):
    """A line becomes 23 pixels wide, as the paper says."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels.swapaxes(0, axis)[112] = 255
    found = made(
        "GaussianBlur", pixels=pixels, probability=1.0, method="kernel", sigma=[60.0, 60.0]
    )
    places = np.nonzero(found.swapaxes(0, axis)[:, 5, 0])[0]
    assert list(places) == list(range(101, 124))


@pytest.mark.smoke
def test_grey_is_the_luma_of_bt_601():
    found = made("RandomGrayscale", probability=1.0)
    luma = PIXELS @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found - luma[..., None]).max() <= 0.51
    np.testing.assert_array_equal(found[..., 0], np.array(Image.fromarray(PIXELS).convert("L")))


@pytest.mark.smoke
def test_solarize():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    found = made("RandomSolarize", pixels=ramp, probability=1.0).ravel()[::3]
    assert (found[127], found[128], found[255]) == (127, 127, 0)
    unit = np.arange(256) / 255
    np.testing.assert_allclose(found / 255, np.where(unit < 0.5, unit, 1 - unit), atol=1e-12)
    for threshold in (0, 100, 256):
        found = made("RandomSolarize", probability=1.0, threshold=threshold)
        expected = np.array(ImageOps.solarize(Image.fromarray(PIXELS), threshold))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["GaussianBlur", "RandomGrayscale", "RandomSolarize"])
def test_how_often(name):
    for probability in (0.0, 0.3, 1.0):
        changed = sum(
            (made(name, seed, probability=probability) != PIXELS).any() for seed in range(300)
        )
        # Four standard errors; a wrong failure once in fifteen thousand.
        assert (
            abs(changed - 300 * probability) <= 4 * (300 * probability * (1 - probability)) ** 0.5
        )


def test_sigma_is_drawn_evenly(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        ImageFilter, "GaussianBlur", lambda sigma: drawn.append(sigma) or ImageFilter.SHARPEN
    )
    for seed in range(500):
        made("GaussianBlur", seed, probability=1.0, sigma=[0.5, 1.5])
    assert 0.5 <= min(drawn) < 0.52 and 1.48 < max(drawn) <= 1.5
    assert np.mean(drawn) == pytest.approx(1.0, abs=4 * (1 / 12 / 500) ** 0.5)


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        ("GaussianBlur", {"probability": 1.5}, "probability lies"),
        ("RandomGrayscale", {"probability": -0.1}, "probability lies"),
        ("RandomSolarize", {"probability": 2.0}, "probability lies"),
        ("RandomSolarize", {"threshold": 300}, "0 to 256"),
        ("GaussianBlur", {"sigma": [2.0, 0.1]}, "sigma is"),
        ("GaussianBlur", {"sigma": [0.0, 0.1]}, "sigma is"),
        ("GaussianBlur", {"method": "opencv"}, "pillow or kernel"),
        ("GaussianBlur", {"kernel_size": 5}, "with method kernel"),
        ("GaussianBlur", {"border": "zeros"}, "border is mirror or zeros, with method kernel"),
        ("GaussianBlur", {"border": "wrap", "method": "kernel"}, "border is mirror or zeros"),
        ("GaussianBlur", {"kernel_size": 4, "method": "kernel"}, "odd number"),
    ],
)
def test_refusals(name, arguments, said):
    with pytest.raises(PasslError, match=said):
        TRANSFORMS.build({"name": name, **arguments})
