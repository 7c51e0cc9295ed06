import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def save_image():
    """Writes a small random image, a function of its seed, and returns its path."""

    def save(path, size=(6, 5), seed=0, **arguments):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(path, **arguments)
        return path

    return save


@pytest.fixture
def image_folder(tmp_path, save_image):
    """Builds ``<tmp>/<name>/<class>/<i>.png`` from ``{class: count}``."""

    def build(counts, name="images", size=(6, 5)):
        root = tmp_path / name
        seed = 0
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for i in range(count):
                save_image(root / folder / f"{i:03d}.png", size, seed)
                seed += 1
        return root

    return build
