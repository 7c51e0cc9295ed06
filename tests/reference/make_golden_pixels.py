"""Makes tests/golden/pixels.json: SHA-256 of the pixels that timm shows its Mixers.

For the pictures of pictures.py, and for the twenty photographs of the PyPI package foolbox, named
as files; see ``digest`` for what is hashed. ``decoded`` is the whole photograph as Pillow decodes
it, ``view`` what timm makes of it.

    python tests/reference/make_golden_pixels.py PHOTOGRAPH …

Run with timm 1.0.31, torchvision 0.28.0 and Pillow 13.0.0 on x86-64.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pictures import SIZES, digest, picture
from PIL import Image
from timm.data import create_transform
from timm_pixels import view_of

RELEASES = ("mixer_b16_224.goog_in21k_ft_in1k", "mixer_b16_224.miil_in21k_ft_in1k")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photographs", nargs="+", type=Path)
arguments = parser.parse_args()

pictures = {"{}x{}".format(*size): Image.fromarray(picture(*size)) for size in SIZES}
photographs = {p.name: Image.open(p).convert("RGB") for p in arguments.photographs}
found = {
    "pictures": {name: digest(np.asarray(image)) for name, image in pictures.items()},
    "decoded": {name: digest(np.asarray(image)) for name, image in photographs.items()},
    "view": {},
}
for release in RELEASES:
    view = create_transform(is_training=False, normalize=False, **view_of(release))
    found["view"][release] = {
        name: digest(view(image).numpy().transpose(1, 2, 0))
        for name, image in {**pictures, **photographs}.items()
    }
target = Path(__file__).resolve().parent.parent / "golden" / "pixels.json"
target.write_text(json.dumps(found, indent=1) + "\n")
