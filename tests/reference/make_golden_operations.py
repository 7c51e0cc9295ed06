"""Makes tests/golden/operations.json: what timm's augmentation operations make of a picture.

``increasing`` has, for each operation of timm's "increasing" RandAugment, magnitude and sign, the
digest of the result; ``original``, for each step of its AutoAugment policy of that name. Signs are
forced by standing in for ``random.random``.

    python tests/reference/make_golden_operations.py

Run with timm 1.0.31 and Pillow 13.0.0 on x86-64.
"""

import json
import random
from pathlib import Path

import numpy as np
from pictures import digest, picture
from PIL import Image
from timm.data import auto_augment

MAGNITUDES = (0, 3.5, 5, 9, 9.9)  # at 10 timm posterizes to 0 bits, which Pillow 13 refuses
SIZE = (61, 47)
FILL = (124, 116, 104)

image = Image.fromarray(picture(*SIZE))
found = {"increasing": {}, "original": {}}
hparams = {"img_mean": FILL, "translate_pct": 0.45}


def result(name, magnitude, sign, interpolation):
    operation = auto_augment.AugmentOp(
        name, prob=1.0, magnitude=magnitude, hparams={**hparams, "interpolation": interpolation}
    )
    # timm: a number above 0.5 makes an amount negative.
    random.random = lambda: 0.0 if sign > 0 else 1.0
    return digest(np.asarray(operation(image.copy())))


for name in auto_augment._RAND_INCREASING_TRANSFORMS:
    short = name.replace("Increasing", "").replace("Rel", "")
    for magnitude in MAGNITUDES:
        for sign in (1, -1):
            found["increasing"][f"{short} {magnitude} {sign:+d}"] = result(
                name, magnitude, sign, Image.BICUBIC
            )
for policy in auto_augment.auto_augment_policy_original(hparams):
    for step in policy:
        short = step.name.replace("Original", "")
        for sign in (1, -1):
            found["original"][f"{short} {step.magnitude} {sign:+d}"] = result(
                step.name, step.magnitude, sign, Image.NEAREST
            )
target = Path(__file__).resolve().parent.parent / "golden" / "operations.json"
target.write_text(json.dumps(found, indent=1) + "\n")
print(len(found["increasing"]), len(found["original"]))
