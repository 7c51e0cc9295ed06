import math

import numpy as np
import paddle
import pytest
from PIL import Image

from passl.datasets import BATCH_TRANSFORMS, TRANSFORMS, SampleKey, build_dataset
from passl.datasets.images.rgb_image import RgbImage
from passl.utils.errors import PasslError


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def apply(cfg, image, seed=0):
    transform = TRANSFORMS.build(cfg)
    sample = transform(
        {"image": RgbImage(np.asarray(image)), "label": 3, "extra": "kept"},
        np.random.default_rng(seed),
    )
    assert sample["label"] == 3 and sample["extra"] == "kept"
    return np.asarray(sample["image"])


# ---------------------------------------------------------------- ResizeCenterCrop


def torchvision_view(image, resize, crop, resample):
    """torchvision's Resize(int) and CenterCrop(int), as its functional.py computes them."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_size = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize(new_size, resample)
    top = int(round((new_size[1] - crop) / 2.0))
    left = int(round((new_size[0] - crop) / 2.0))
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


@pytest.mark.smoke
@pytest.mark.parametrize("crop, ratio, resize", [(224, 0.875, 256), (32, 1.0, 32), (33, 0.9, 36)])
@pytest.mark.parametrize(
    "size",
    [
        (300, 257),
        (257, 300),
        (64, 64),
        (31, 17),
        (17, 31),
        (1, 9),
        (500, 40),
        (256, 256),
        (257, 256),
    ],
)
def test_resize_center_crop_is_torchvisions(size, crop, ratio, resize):
    image = picture(*size)
    cfg = {"name": "ResizeCenterCrop", "size": crop, "crop_ratio": ratio}
    expected = torchvision_view(image, resize, crop, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(apply(cfg, image), expected)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resize_center_crop_takes_the_named_filter(name):
    image = picture(61, 47)
    cfg = {"name": "ResizeCenterCrop", "size": 28, "interpolation": name}
    expected = torchvision_view(image, 32, 28, getattr(Image.Resampling, name.upper()))
    np.testing.assert_array_equal(apply(cfg, image), expected)


@pytest.mark.parametrize("size", [(40, 40), (90, 20), (20, 90), (31, 57)])
def test_a_crop_that_is_not_square_just_covers(size):
    image = picture(*size)
    cfg = {"name": "ResizeCenterCrop", "size": [16, 24], "crop_ratio": 0.8}
    resized = TRANSFORMS.build(cfg).resized(*size)
    # Height 16 / 0.8 = 20, width 24 / 0.8 = 30; one of them exactly, neither less.
    scale = max(30 / size[0], 20 / size[1])
    assert resized[0] >= 30 and resized[1] >= 20 and (resized[0] == 30 or resized[1] == 20)
    np.testing.assert_allclose(resized, np.array(size) * scale, atol=1)
    left, top = round((resized[0] - 24) / 2), round((resized[1] - 16) / 2)
    whole = image.resize(resized, Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[top : top + 16, left : left + 24]
    np.testing.assert_array_equal(apply(cfg, image), expected)


# ---------------------------------------------------------------- random crops and flips


def uniform_distance(values, low, high):
    """Largest distance between the distribution of ``values`` and the uniform one."""
    values = np.sort((np.asarray(values) - low) / (high - low))
    n = len(values)
    return max(
        np.abs(values - np.arange(1, n + 1) / n).max(), np.abs(values - np.arange(n) / n).max()
    )


def boxes(cfg, width, height, count):
    transform = TRANSFORMS.build({"name": "RandomResizedCrop", "size": 8, **cfg})
    rng = np.random.default_rng(0)
    return np.array([transform.box(width, height, rng) for _ in range(count)])


def test_random_resized_crop_boxes_follow_the_theory():
    # Every such box fits in a square, so that none is drawn twice and the law is exact.
    drawn = boxes({"scale": [0.1, 0.5], "ratio": [0.5, 2.0]}, 4000, 4000, 3000)
    left, top, right, bottom = drawn.T
    width, height = right - left, bottom - top
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= 4000).all() and (bottom <= 4000).all()
    limit = 1.95 / math.sqrt(len(drawn))  # Kolmogorov-Smirnov at one in a thousand
    assert uniform_distance(width * height / 4000**2, 0.1, 0.5) < limit
    assert uniform_distance(np.log(width / height), -math.log(2), math.log(2)) < limit
    assert uniform_distance(left / (4000 - width), 0, 1) < limit
    assert uniform_distance(top / (4000 - height), 0, 1) < limit
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.06
    assert abs(np.corrcoef(width * height, width / height)[0, 1]) < 0.06


def test_random_resized_crop_touches_both_edges():
    drawn = boxes({"scale": [0.5, 1.0], "ratio": [1.0, 1.0]}, 4, 4, 500)
    assert {tuple(box) for box in drawn if box[2] - box[0] == 3} == {
        (0, 0, 3, 3), (1, 0, 4, 3), (0, 1, 3, 4), (1, 1, 4, 4)
    }  # fmt: skip


@pytest.mark.parametrize(
    "size, expected",
    [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 100), (0, 49, 1, 50))],
)
def test_random_resized_crop_of_an_extreme_image_is_the_centre(size, expected):
    # The least box, 8 % of the area at 3:4, does not fit.
    assert {tuple(box) for box in boxes({}, *size, 20)} == {expected}


def test_a_crop_may_draw_its_filter():
    """Half of the images by each, and otherwise the crop that it is with a filter of its own."""
    image, found = picture(50, 40), {"bilinear": 0, "bicubic": 0}
    for seed in range(200):
        drawn, *fixed = (
            apply({"name": "RandomResizedCrop", "size": 9, "interpolation": name}, image, seed)
            for name in ("random", *found)
        )
        equal = [np.array_equal(drawn, one) for one in fixed]
        assert sum(equal) == 1
        found[[*found][equal.index(True)]] += 1
    assert 70 < found["bilinear"] < 130


@pytest.mark.parametrize("size, wanted", [(12, (12, 12)), ([8, 20], (20, 8))])
def test_resize_shows_the_whole_image_squashed(size, wanted):
    image = picture(50, 40)
    expected = image.resize(wanted, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(apply({"name": "Resize", "size": size}, image), expected)
    assert TRANSFORMS.build({"name": "Resize", "size": size}).crop_ratio is None


def test_random_resized_crop_resizes_its_box():
    image = picture(50, 40)
    cfg = {"name": "RandomResizedCrop", "size": [16, 24], "interpolation": "bilinear"}
    transform = TRANSFORMS.build(cfg)
    box = transform.box(50, 40, np.random.default_rng(5))
    expected = image.crop(box).resize((24, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(apply(cfg, image, seed=5), np.asarray(expected))


@pytest.mark.smoke
def test_random_crop_cuts_from_the_padded_image_evenly():
    image = picture(6, 5)
    padded = np.zeros((5 + 4, 6 + 4, 3), np.uint8)
    padded[2:7, 2:8] = np.asarray(image)
    # 9 - 5 + 1 rows and 10 - 6 + 1 columns to begin at.
    windows = {padded[y : y + 5, x : x + 6].tobytes(): (x, y) for x in range(5) for y in range(5)}
    cfg = {"name": "RandomCrop", "size": [5, 6], "padding": 2}
    drawn = [windows[apply(cfg, image, seed).tobytes()] for seed in range(1500)]
    counts = np.bincount([5 * x + y for x, y in drawn], minlength=25)
    # Chi-squared with 24 degrees of freedom: one in a thousand lies above 51.2.
    assert ((counts - 60) ** 2 / 60).sum() < 51.2


def test_random_crop_fills_what_it_pads_with_a_grey():
    image = picture(6, 5)
    padded = np.full((5 + 4, 6 + 4, 3), 250, np.uint8)
    padded[2:7, 2:8] = np.asarray(image)
    windows = [padded[y : y + 5, x : x + 6].tobytes() for x in range(5) for y in range(5)]
    cfg = {"name": "RandomCrop", "size": [5, 6], "padding": 2}
    drawn = [apply({**cfg, "fill": 250}, image, seed).tobytes() for seed in range(300)]
    assert set(drawn) == set(windows)


def test_random_crop_of_the_whole_image_is_the_image():
    image = picture(6, 5)
    np.testing.assert_array_equal(
        apply({"name": "RandomCrop", "size": [5, 6]}, image), np.asarray(image)
    )


def test_random_crop_from_a_smaller_image_names_both_sizes():
    with pytest.raises(PasslError, match="8×8 from a smaller image, 5×6 with padding 1"):
        apply({"name": "RandomCrop", "size": 8, "padding": 1}, picture(6, 5))


@pytest.mark.parametrize("name, axis", [("RandomHorizontalFlip", 1), ("RandomVerticalFlip", 0)])
def test_flips(name, axis):
    image = picture(6, 5)
    plain, mirrored = np.asarray(image), np.flip(np.asarray(image), axis)
    np.testing.assert_array_equal(apply({"name": name, "p": 1.0}, image), mirrored)
    np.testing.assert_array_equal(apply({"name": name, "p": 0.0}, image), plain)
    results = [apply({"name": name, "p": 0.3}, image, seed) for seed in range(1000)]
    flipped = sum(np.array_equal(result, mirrored) for result in results)
    assert flipped + sum(np.array_equal(result, plain) for result in results) == 1000
    assert abs(flipped - 300) < 4 * math.sqrt(1000 * 0.3 * 0.7)


@pytest.mark.parametrize(
    "cfg, words",
    [
        ({"name": "ResizeCenterCrop", "size": 0}, "size"),
        ({"name": "ResizeCenterCrop", "size": [1, 2, 3]}, "size"),
        ({"name": "ResizeCenterCrop", "size": 8, "crop_ratio": 0.0}, "crop_ratio"),
        ({"name": "ResizeCenterCrop", "size": 8, "crop_ratio": 1.5}, "crop_ratio"),
        ({"name": "ResizeCenterCrop", "size": 8, "interpolation": "cubic"}, "bicubic"),
        ({"name": "RandomResizedCrop", "size": 8, "scale": [0.5, 0.1]}, "scale"),
        ({"name": "RandomResizedCrop", "size": 8, "scale": [0.5, 1.1]}, "scale"),
        ({"name": "RandomResizedCrop", "size": 8, "scale": [0.5]}, "scale"),
        ({"name": "RandomResizedCrop", "size": 8, "ratio": [0.0, 1.0]}, "ratio"),
        ({"name": "RandomCrop", "size": 8, "padding": -1}, "padding"),
        ({"name": "RandomCrop", "size": 8, "fill": 256}, "fill"),
        ({"name": "RandomCrop", "size": 8, "fill": -1}, "fill"),
        ({"name": "RandomHorizontalFlip", "p": 1.5}, "probability"),
        ({"name": "RandomHorizontalFlip", "p": float("nan")}, "probability"),
    ],
)
def test_impossible_arguments_are_named(cfg, words):
    with pytest.raises(PasslError, match=words):
        TRANSFORMS.build(cfg)


# ---------------------------------------------------------------- determinism


@pytest.mark.smoke
def test_a_sample_is_a_function_of_seed_epoch_index_and_copy(image_folder):
    dataset = build_dataset(
        {
            "name": "ImageFolder",
            "dataroot": str(image_folder({"a": 1, "b": 1}, size=(40, 30))),
            "transforms": [
                {"name": "RandomResizedCrop", "size": 16},
                {"name": "RandomHorizontalFlip"},
            ],
        }
    )

    def draw(**key):
        return dataset[SampleKey(**{"index": 0, **key})]["image"].tobytes()

    keys = [{}, {"epoch": 1}, {"copy": 1}, {"seed": 1}, {"index": 1}, {"epoch": 1, "copy": 1}]
    first = [draw(**key) for key in keys]
    assert first == [draw(**key) for key in keys]
    assert len(set(first)) == len(keys)
    np.random.seed(1)
    paddle.seed(1)
    assert first[::-1] == [draw(**key) for key in keys[::-1]]
    assert dataset[0]["image"].tobytes() == first[0]


# ---------------------------------------------------------------- Normalize


@pytest.mark.smoke
def test_normalize():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    pixels[0, 0, 0] = (0, 128, 255)
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    normalize = BATCH_TRANSFORMS.build({"name": "Normalize", "mean": mean, "std": std})
    batch = normalize({"image": paddle.to_tensor(pixels), "label": paddle.to_tensor([1, 2])})
    assert batch["image"].dtype == paddle.float32
    expected = ((pixels.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["image"].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert batch["label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "mean, std",
    [
        ([0.5, 0.5, 0.5], [0.5, 0.5]),
        ([0.5] * 3, [0.5, 0.0, 0.5]),
        ([0.5] * 3, [-1.0] * 3),
        ([], []),
    ],
)
def test_normalize_names_impossible_values(mean, std):
    with pytest.raises(PasslError, match="mean and std"):
        BATCH_TRANSFORMS.build({"name": "Normalize", "mean": mean, "std": std})


@pytest.mark.parametrize(
    ("mean", "std", "name"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "mean"),
        ([0.485, 0.456, 0.406], [58.395, 57.12, 57.375], "std"),
        ([0.5, 0.5, 127.5], [0.5, 0.5, 0.5], "mean"),
        ([0.5, -0.5, 0.5], [0.5, 0.5, 0.5], "mean"),
        ([0.5, float("nan"), 0.5], [0.5, 0.5, 0.5], "mean"),
        ([0.5, 0.5, 0.5], [0.5, float("nan"), 0.5], "std"),
    ],
)
def test_normalize_refuses_values_on_another_scale(mean, std, name):
    with pytest.raises(PasslError, match=f"^{name} is on the scale of 0 to 1, .*divided by 255"):
        BATCH_TRANSFORMS.build({"name": "Normalize", "mean": mean, "std": std})


def test_normalize_at_the_ends_of_the_scale_and_of_one_value_for_all_channels():
    pixels = paddle.to_tensor(np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3))
    for mean, std in (([0.0] * 3, [1.0] * 3), ([1.0] * 3, [1.0] * 3), ([0.0], [1.0])):
        normalize = BATCH_TRANSFORMS.build({"name": "Normalize", "mean": mean, "std": std})
        expected = (pixels.numpy() / 255 - mean[0]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(normalize({"image": pixels})["image"], expected, atol=1e-6)


def test_normalize_of_other_channels_and_twice():
    pixels = {"image": paddle.zeros([2, 5, 4, 3], "uint8")}
    four = BATCH_TRANSFORMS.build({"name": "Normalize", "mean": [0.5] * 4, "std": [0.5] * 4})
    with pytest.raises(PasslError, match=r"has 4 values .* \[2, 5, 4, 3\]"):
        four(pixels)
    three = BATCH_TRANSFORMS.build({"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3})
    with pytest.raises(PasslError, match="Normalize once"):
        three(three(pixels))
