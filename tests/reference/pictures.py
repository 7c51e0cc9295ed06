"""Pictures whose pixels are the same everywhere: no decoder has a part in them."""

import hashlib

import numpy as np

# Width and height: both orientations, margins of the crop with every remainder, long strips,
# enlargements, and a reduction to less than a quarter.
SIZES = (
    (500, 333),
    (333, 500),
    (256, 256),
    (257, 256),
    (256, 257),
    (259, 256),
    (256, 259),
    (255, 256),
    (225, 1000),
    (640, 91),
    (100, 80),
    (7, 3),
    (1, 1),
    (1290, 1100),
)


def picture(width, height):
    """Returns uint8 ``[height, width, 3]``: flat squares and stripes with noise on them.

    Their edges, from black to white in places, make the filters overshoot, so that clipping and
    rounding are seen too. NumPy has promised never to change what RandomState gives.
    """
    random = np.random.RandomState(width * 10000 + height)
    squares = random.randint(0, 2, (height // 9 + 1, width // 7 + 1, 3)) * 255
    squares = squares.repeat(9, axis=0).repeat(7, axis=1)[:height, :width]
    noise = random.randint(-60, 61, (height, width, 3))
    noise[: height // 2] = 0
    return np.clip(squares + noise, 0, 255).astype(np.uint8)


def digest(array):
    """Returns the SHA-256 of a uint8 array, shape included."""
    assert array.dtype == np.uint8
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()
