"""RandAugment's operations against their definitions, written out in NumPy."""

import numpy as np
import pytest
from PIL import Image

from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.transforms import rand_augment
from passl.datasets.transforms.rand_augment import AUTHORS, INCREASING, RandAugment
from passl.utils.errors import PasslError

PIXELS = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
PIXELS[..., 1] = PIXELS[..., 1] // 2 + 30  # a channel that does not fill its range


def apply(name, level=1.5, seed=0, pixels=PIXELS):
    augment = RandAugment(magnitude=10 * level)
    image = augment.apply(Image.fromarray(pixels), AUTHORS[name], np.random.default_rng(seed))
    return np.asarray(image).astype(int)


def blended(degenerate, factor):
    return (degenerate + factor * (PIXELS.astype(float) - degenerate)).clip(0, 255)


def grey(pixels):
    weights = np.array([299, 587, 114]) / 1000
    return np.round(pixels @ weights)


@pytest.mark.smoke
def test_operations_on_values():
    pixels = PIXELS.astype(int)
    assert (apply("Invert") == 255 - pixels).all()
    assert (apply("Posterize", 1.0) == pixels // 16 * 16).all()
    assert (apply("Posterize", 1.5) == pixels // 4 * 4).all()
    assert (apply("Posterize", 3.0) == pixels).all()
    assert (apply("Posterize", 0.0) == 0).all()
    assert (apply("Solarize", 0.5) == np.where(pixels < 128, pixels, 255 - pixels)).all()
    assert (apply("Solarize", 1.5) == pixels).all(), "a threshold of 384: nothing is above it"
    expected = np.where(pixels < 128, np.minimum(pixels + 165, 255), pixels)
    assert (apply("SolarizeAdd", 1.5) == expected).all()
    low, high = pixels.min((0, 1)), pixels.max((0, 1))
    stretched = (pixels - low) * 255.0 / (high - low)
    assert np.abs(apply("AutoContrast") - stretched).max() <= 1
    equal = apply("Equalize")
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        table = np.concatenate([[0], ((np.cumsum(counts) + step // 2) // step)[:-1]]).clip(0, 255)
        # Pillow starts the sum at half a step as well, and shifts it after.
        assert np.abs(equal[..., channel] - table[pixels[..., channel]]).max() <= 1


@pytest.mark.smoke
@pytest.mark.parametrize("level, factor", [(0.5, 1.0), (1.0, 1.9), (1.5, 2.8), (0.0, 0.1)])
def test_enhancements(level, factor):
    # Values are cut off to whole numbers, and grey may be rounded the other way.
    bound = 1 + abs(1 - factor)
    mean = int(grey(PIXELS).mean() + 0.5)
    tone = np.repeat(grey(PIXELS)[..., None], 3, axis=2)
    assert np.abs(apply("Brightness", level) - blended(0.0, factor)).max() <= 1
    assert np.abs(apply("Contrast", level) - blended(float(mean), factor)).max() <= bound
    assert np.abs(apply("Color", level) - blended(tone, factor)).max() <= bound
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = PIXELS.astype(float)
    smooth[1:-1, 1:-1] = sum(
        kernel[dy, dx] * PIXELS[dy : 222 + dy, dx : 222 + dx].astype(float)
        for dy in range(3)
        for dx in range(3)
    )
    assert np.abs(apply("Sharpness", level) - blended(smooth, factor)).max() <= bound


def source(name, level, sign):
    """Where the pixel at (x, y) comes from, by the definition."""
    y, x = np.mgrid[0:224, 0:224] + 0.5
    if name == "Rotate":
        angle = np.deg2rad(sign * 30 * level)
        x0, y0 = x - 112, y - 112
        return (
            np.cos(angle) * x0 - np.sin(angle) * y0 + 112,
            np.sin(angle) * x0 + np.cos(angle) * y0 + 112,
        )
    if name == "ShearX":
        return x + sign * 0.3 * level * y, y
    if name == "ShearY":
        return x, y + sign * 0.3 * level * x
    if name == "TranslateX":
        return x + sign * 100 * level, y
    return x, y + sign * 100 * level


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_geometry(name):
    """The nearest pixel, grey where there is none; both directions occur."""
    signs = []
    for seed in range(8):
        result = apply(name, 1.1, seed)
        shares = []
        for sign in (1, -1):
            x, y = source(name, 1.1, sign)
            inside = (x >= 0) & (x < 224) & (y >= 0) & (y < 224)
            expected = np.full((224, 224, 3), 128)
            expected[inside] = PIXELS[y[inside].astype(int), x[inside].astype(int)]
            # Pillow's fixed point lets pixels near the edge between two fall to either.
            shares.append((result == expected).all(-1).mean())
        assert max(shares) > 0.998
        signs.append(shares[0] > shares[1])
    assert 0 < sum(signs) < 8


def test_cutout():
    result = apply("Cutout", 1.5, seed=3)
    changed = (result != PIXELS).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    box = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (box == 128).all() and max(box.shape) <= 120
    assert box.shape[0] == 120 or rows[0] == 0 or rows[-1] == 223


@pytest.mark.parametrize(
    "operations, arguments, share, limit",
    [
        # Chi-square with 15 and 14 degrees of freedom; the limits are its 99.9th percentiles.
        ("authors", {"magnitude": 15}, 1.0, 37.7),
        ("increasing", {"magnitude": 9, "magnitude_std": 0.5}, 0.5, 36.1),
    ],
)
def test_operations_are_drawn_evenly(monkeypatch, operations, arguments, share, limit):
    entries = {"authors": AUTHORS, "increasing": INCREASING}[operations]
    counts, levels = dict.fromkeys(entries, 0), []

    def counting(name, has_sign):
        def amount_at(level):
            counts[name] += 1
            levels.append(level)
            return 0.0

        return name, amount_at, has_sign

    for name, (_, _, has_sign) in entries.items():
        monkeypatch.setitem(entries, name, counting(name, has_sign))
    augment = RandAugment(2, operations=operations, **arguments)
    image = RgbImage(np.zeros((2, 2, 3), np.uint8))
    for seed in range(1600):
        augment({"image": image}, np.random.default_rng(seed))
    total = sum(counts.values())
    assert abs(total - 3200 * share) <= 3.3 * (3200 * share * (1 - share)) ** 0.5
    expected = total / len(entries)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < limit
    if operations == "authors":
        assert set(levels) == {1.5}
    else:  # around 9, cut off at 10: a normal of 0.5, of which 2.3 % lie above
        levels = np.array(levels)
        assert abs(np.median(levels) - 0.9) < 0.005 and levels.max() == 1.0
        assert abs((levels == 1.0).mean() - 0.0228) < 0.012
        assert abs((levels < 0.85).mean() - 0.1587) < 0.03


def test_the_interpolation_is_drawn_only_where_asked(monkeypatch):
    seen = []
    monkeypatch.setitem(
        rand_augment.OPERATIONS, "Rotate", lambda image, _, canvas: seen.append(canvas) or image
    )
    image = Image.fromarray(PIXELS)
    for operations, expected in (("authors", {0}), ("increasing", {2, 3})):
        seen.clear()
        augment = RandAugment(operations=operations, magnitude=9, fill=[1, 2, 3])
        for seed in range(200):
            augment.apply(image, INCREASING["Rotate"], np.random.default_rng(seed))
        assert {int(canvas.resample) for canvas in seen} == expected
        assert {canvas.fill for canvas in seen} == {(1, 2, 3)}
        if len(expected) == 2:
            assert 70 < sum(canvas.resample == 2 for canvas in seen) < 130


def test_the_same_numbers_give_the_same_image_and_leave_the_first_one_alone():
    image = RgbImage(PIXELS.copy())
    one, other = (
        RandAugment()({"image": image, "label": 3}, np.random.default_rng(5)) for _ in range(2)
    )
    assert (one["image"].pixels == other["image"].pixels).all() and one["label"] == 3
    assert (image.pixels == PIXELS).all()
    for arguments, message in (
        ({"layers": 0}, "layers is at least 1"),
        ({"magnitude": 31}, r"magnitude lies in \[0, 30\] for operations: authors"),
        ({"magnitude": 15, "operations": "increasing"}, r"magnitude lies in \[0, 10\]"),
        ({"operations": "timm"}, "operations is 'authors' or 'increasing'"),
        ({"magnitude_std": -1}, "magnitude_std is at least 0"),
        ({"probability": 1.1}, r"probability lies in \[0, 1\]"),
        ({"interpolation": "lanczos"}, "interpolation is one of"),
        ({"fill": [0, 0, 256]}, r"fill is \[red, green, blue\]"),
    ):
        with pytest.raises(PasslError, match=message):
            RandAugment(**arguments)
