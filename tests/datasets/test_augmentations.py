"""AutoAugment, TrivialAugment, colour jitter and random erasing: what they draw, what they do."""

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from passl.datasets import TRANSFORMS
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.transforms import auto_augment, trivial_augment
from passl.datasets.transforms.color_jitter import shift_hue
from passl.utils.errors import PasslError

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
NEVER = 1e-3  # a right distribution fails so often


def sample(pixels=PIXELS):
    return {"image": RgbImage(pixels.copy()), "label": 3}


def draws(monkeypatch, module, transform, count):
    """Returns the (operation, amount) pairs of ``count`` images, in a list for each image."""
    drawn = []
    for name in module.OPERATIONS:
        monkeypatch.setitem(
            module.OPERATIONS,
            name,
            lambda image, amount, canvas, name=name: drawn[-1].append((name, amount)) or image,
        )
    for seed in range(count):
        drawn.append([])
        transform(sample(), np.random.default_rng(seed))
    return drawn


# ---------------------------------------------------------------- AutoAugment


@pytest.mark.parametrize("policy", ["imagenet", "cifar10"])
def test_auto_augment_draws_what_the_tables_say(monkeypatch, policy):
    count = 6000
    transform = TRANSFORMS.build({"name": "AutoAugment", "policy": policy})
    drawn = draws(monkeypatch, auto_augment, transform, count)
    rows = auto_augment.POLICIES[policy]
    assert len(rows) == 25 and all(len(row) == 2 for row in rows)
    expected = {}
    for row in rows:
        for name, probability, _ in row:
            expected[name] = expected.get(name, 0) + probability / 25
    found = {name: 0 for name in expected}
    for image in drawn:
        for name, _ in image:
            found[name] += 1
    for name, mean in expected.items():
        # At most two of an image: the variance is below twice the mean.
        assert abs(found[name] - count * mean) < 3.5 * (2 * count * mean) ** 0.5, name
    # A pair of certain operations tells its sub-policy: Color and Contrast stand twice of 25.
    if policy == "imagenet":
        pairs = [tuple(name for name, _ in image) for image in drawn]
        assert (
            stats.binomtest(pairs.count(("Color", "Contrast")), count, 2 / 25 * 0.6).pvalue > NEVER
        )
    amounts = {}
    for image in drawn:
        for name, amount in image:
            amounts.setdefault(name, set()).add(round(amount, 6))
    if policy == "imagenet":
        assert amounts["Rotate"] == {a * s for a in (9, 24, 27) for s in (1, -1)}
        assert amounts["Posterize"] == {4 + 3, 4 + 2}  # magnitudes 8 and 7, 6 and 5
        assert amounts["Solarize"] == {76, 102, 128, 179, 204}
        assert amounts["Color"] == {0.1, 0.46, 0.82, 1.54}
        assert amounts["ShearX"] == {0.15, -0.15}
    else:
        assert amounts["TranslateX"] == {
            round(150 / 331 * level * sign, 6) for level in (0.8, 0.9) for sign in (1, -1)
        }
        assert amounts["Brightness"] == {0.64, 1.18, 1.36, 1.72}


# ---------------------------------------------------------------- TrivialAugment


def test_trivial_augment_draws_evenly(monkeypatch):
    count = 14 * 600
    transform = TRANSFORMS.build({"name": "TrivialAugment"})
    drawn = draws(monkeypatch, trivial_augment, transform, count)
    assert all(len(image) == 1 for image in drawn)
    by_name = {}
    for ((name, amount),) in drawn:
        by_name.setdefault(name, []).append(amount)
    assert set(by_name) == set(trivial_augment.WIDE) and len(by_name) == 14
    assert stats.chisquare([len(amounts) for amounts in by_name.values()]).pvalue > NEVER
    for name, most in (("Rotate", 135), ("ShearX", 0.99), ("ShearY", 0.99)):
        levels = np.rint(np.array(by_name[name]) / most * 30).astype(int)
        assert np.allclose(np.array(by_name[name]), levels * most / 30)
        # 0 comes by either sign.
        expected = np.where(np.arange(-30, 31) == 0, 2.0, 1.0) * len(levels) / 62
        counts = np.bincount(levels + 30, minlength=61)
        assert stats.chisquare(counts, expected).pvalue > NEVER, name
    for name in ("Color", "Contrast", "Brightness", "Sharpness"):
        amounts = np.array(by_name[name])
        assert amounts.min() == pytest.approx(0.01) and amounts.max() == pytest.approx(1.99)
    assert set(by_name["Posterize"]) == set(range(2, 9))
    assert {round(amount, 9) for amount in by_name["Solarize"]} == {
        round(255 - 8.5 * i, 9) for i in range(31)
    }
    whole = {round(amount * 60, 6) for amount in by_name["TranslateX"]}
    assert whole == {sign * (32 * i // 30) for i in range(31) for sign in (1, -1)}
    assert max(by_name["TranslateY"]) == pytest.approx(32 / 40)


# ---------------------------------------------------------------- colour jitter


def test_the_hue_is_turned_as_the_definition_says():
    turned = np.asarray(shift_hue(Image.fromarray(PIXELS), 0.3)).reshape(-1, 3)
    errors = []
    for before, after in zip(PIXELS.reshape(-1, 3)[:400], turned):
        hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
        expected = colorsys.hsv_to_rgb((hue + 76 / 256) % 1, saturation, value)
        errors.append(np.abs(np.array(expected) * 255 - after).max())
    # Hue and saturation are rounded to bytes on the way.
    assert np.mean(errors) < 4 and max(errors) < 10


def test_colour_jitter_draws_its_bounds_and_orders(monkeypatch):
    factors, orders = {"Brightness": [], "Contrast": [], "Color": []}, []
    for name, found in factors.items():

        class Recording(getattr(ImageEnhance, name)):
            def enhance(self, factor, name=name, found=found):
                found.append(factor)
                orders[-1].append(name)
                return super().enhance(factor)

        key = {"Brightness": "brightness", "Contrast": "contrast", "Color": "saturation"}[name]
        monkeypatch.setitem(
            TRANSFORMS.get("ColorJitter").__call__.__globals__["_ENHANCERS"], key, Recording
        )
    transform = TRANSFORMS.build(
        {"name": "ColorJitter", "brightness": 0.4, "contrast": [0.5, 0.7], "saturation": 1.5,
         "probability": 0.8}
    )  # fmt: skip
    for seed in range(2000):
        orders.append([])
        transform(sample(), np.random.default_rng(seed))
    for name, low, high in (("Brightness", 0.6, 1.4), ("Contrast", 0.5, 0.7), ("Color", 0.0, 2.5)):
        assert stats.kstest(factors[name], stats.uniform(low, high - low).cdf).pvalue > NEVER, name
    changed = [tuple(order) for order in orders if order]
    assert stats.binomtest(len(changed), 2000, 0.8).pvalue > NEVER
    kinds = sorted(set(changed))
    assert len(kinds) == 6 and all(len(order) == 3 for order in kinds)
    assert stats.chisquare([changed.count(kind) for kind in kinds]).pvalue > NEVER


def test_colour_jitter_of_nothing_changes_nothing():
    image = TRANSFORMS.build({"name": "ColorJitter"})(sample(), np.random.default_rng(0))["image"]
    assert (np.asarray(image) == PIXELS).all()


# ---------------------------------------------------------------- random erasing


def test_erased_boxes_follow_the_theory():
    arguments = {"scale": [0.05, 0.2], "ratio": [0.5, 2.0]}
    transform = TRANSFORMS.build({"name": "RandomErasing", **arguments})
    rng = np.random.default_rng(1)
    # Every such box fits into a square, so that none is drawn twice and the law is exact.
    left, top, right, lower = np.array([transform.box(3000, 3000, rng) for _ in range(2000)]).T
    width, height = right - left, lower - top
    area = width * height / 3000**2
    assert stats.kstest(area, stats.uniform(0.05, 0.15).cdf).pvalue > NEVER
    law = stats.uniform(-np.log(2), 2 * np.log(2))
    assert stats.kstest(np.log(height / width), law.cdf).pvalue > NEVER
    assert stats.kstest(left / (3000 - width), stats.uniform.cdf).pvalue > NEVER
    assert stats.kstest(top / (3000 - height), stats.uniform.cdf).pvalue > NEVER


@pytest.mark.parametrize("fill", ["random", [9, 8, 7]])
def test_a_box_is_erased_in_a_share_of_the_images(fill):
    transform = TRANSFORMS.build(
        {"name": "RandomErasing", "probability": 0.3, "scale": [0.2, 0.3], "fill": fill}
    )
    erased = 0
    for seed in range(800):
        before = sample()
        after = np.asarray(transform(before, np.random.default_rng(seed))["image"])
        assert (before["image"].pixels == PIXELS).all(), "the image that was given stays"
        changed = (after != PIXELS).any(-1)
        if not changed.any():
            continue
        erased += 1
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = after[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.15 < box.shape[0] * box.shape[1] / (40 * 60) < 0.35
        if fill == "random":
            assert 100 < box.mean() < 155 and box.std() > 60
        else:
            assert (box == fill).all()
    assert stats.binomtest(erased, 800, 0.3).pvalue > NEVER


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"name": "AutoAugment", "policy": "svhn"}, "policy is one of imagenet, cifar10"),
        ({"name": "TrivialAugment", "interpolation": "best"}, "interpolation is one of"),
        ({"name": "TrivialAugment", "fill": [1, 2]}, "fill is"),
        ({"name": "ColorJitter", "hue": 0.6}, r"hue is a number in \[0, 0.5\]"),
        ({"name": "ColorJitter", "brightness": -0.1}, "brightness is a number"),
        ({"name": "ColorJitter", "brightness": 40}, r"brightness is a number in \[0, 9\]"),
        ({"name": "ColorJitter", "contrast": [1.5, 0.5]}, "contrast is a number"),
        ({"name": "ColorJitter", "probability": 2}, "probability lies in"),
        ({"name": "RandomErasing", "probability": -0.1}, "probability lies in"),
        ({"name": "RandomErasing", "scale": [0.5, 0.1]}, "scale is"),
        ({"name": "RandomErasing", "scale": [2, 33]}, "low ≤ high ≤ 1"),
        ({"name": "RandAugment", "magnitude_std": float("nan")}, "magnitude_std is at least 0"),
        ({"name": "RandomErasing", "fill": "pixel"}, "fill is 'random' or"),
    ],
)
def test_what_cannot_be_is_refused(cfg, message):
    with pytest.raises(PasslError, match=message):
        TRANSFORMS.build(cfg)


@pytest.mark.parametrize(
    "cfg",
    [
        {"name": "AutoAugment"},
        {"name": "TrivialAugment"},
        {"name": "ColorJitter", "brightness": 0.4, "hue": 0.1},
        {"name": "RandomErasing", "probability": 1.0},
        {"name": "RandAugment", "operations": "increasing", "magnitude": 9, "magnitude_std": 0.5},
    ],
)
def test_the_same_numbers_give_the_same_image(cfg):
    transform = TRANSFORMS.build(cfg)
    one, other = (transform(sample(), np.random.default_rng(8)) for _ in range(2))
    assert one["label"] == 3 and (np.asarray(one["image"]) == np.asarray(other["image"])).all()
    assert np.asarray(one["image"]).shape == PIXELS.shape


@pytest.mark.parametrize(
    "turns, colour", [(1 / 3, (0, 255, 0)), (-1 / 3, (0, 0, 255)), (0, (255, 0, 0))]
)
def test_jitter_turns_the_hue_by_what_it_drew(turns, colour):
    """A red image; a third of the circle further red is green, and the other way blue."""
    red = sample(np.full((3, 4, 3), (255, 0, 0), np.uint8))
    jitter = TRANSFORMS.build({"name": "ColorJitter", "hue": [turns, turns], "brightness": 0.0})
    found = np.asarray(jitter(red, np.random.default_rng(0))["image"])
    np.testing.assert_allclose(found, np.broadcast_to(colour, (3, 4, 3)), atol=6)
