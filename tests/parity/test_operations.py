"""timm's augmentation operations, as it has them: the same pixels, to the last bit."""

import json

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image
from reference.pictures import digest, picture

from passl.datasets.transforms import auto_augment, rand_augment
from passl.datasets.transforms.operations import OPERATIONS, Canvas
from passl.datasets.transforms.rand_augment import INCREASING, RandAugment

FILL = (124, 116, 104)


@pytest.fixture(scope="module")
def golden():
    return json.loads((ROOT / "tests" / "golden" / "operations.json").read_text())


def image():
    return Image.fromarray(picture(61, 47))


@pytest.mark.smoke
def test_rand_augments_increasing_operations_are_timms(golden, monkeypatch):
    """Each of the fifteen at five magnitudes with either sign, with bicubic interpolation."""
    assert len(golden["increasing"]) == 15 * 5 * 2
    assert {key.split()[0] for key in golden["increasing"]} == set(INCREASING)
    for key, expected in golden["increasing"].items():
        name, magnitude, sign = key.split()
        monkeypatch.setattr(rand_augment, "signed", lambda amount, rng, s=int(sign): s * amount)
        augment = RandAugment(
            magnitude=float(magnitude), operations="increasing", interpolation="bicubic", fill=FILL
        )
        result = augment.apply(image(), INCREASING[name], np.random.default_rng(0))
        assert digest(np.asarray(result)) == expected, key


@pytest.mark.smoke
def test_auto_augments_operations_are_timms(golden):
    """Each operation and magnitude of the policy that the paper gives for ImageNet."""
    steps = {(name, m) for row in auto_augment.POLICIES["imagenet"] for name, _, m in row}
    said = {(key.split()[0], int(key.split()[1])) for key in golden["original"]}
    assert steps == said
    canvas = Canvas(Image.Resampling.NEAREST, FILL)
    for key, expected in golden["original"].items():
        name, magnitude, sign = key.split()
        amount_at, has_sign = auto_augment.AMOUNTS[name]
        amount = amount_at(int(magnitude) / 10) * (int(sign) if has_sign else 1)
        assert digest(np.asarray(OPERATIONS[name](image(), amount, canvas))) == expected, key
