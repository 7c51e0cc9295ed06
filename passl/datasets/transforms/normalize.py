"""From pixels to what the network expects."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
import paddle

from passl.datasets.registry import BATCH_TRANSFORMS
from passl.utils.errors import PasslError


@BATCH_TRANSFORMS.register
class Normalize:
    """Turns pixels into what the network expects: ``(x / 255 - mean) / std``.

    It runs on the device, so that one byte a value crosses to it instead of four.

    Args:
        mean, std: one value a channel, on the scale of 0 to 1.

    Shape:
        ``image``: uint8 ``[N, H, W, C]`` becomes float32 ``[N, C, H, W]``.
    """

    random = False

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise PasslError(
                f"mean and std have one value a channel, std above 0; not {mean!r} and {std!r}"
            )
        self.mean, self.std = list(mean), list(std)
        scale = 1.0 / (255.0 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        self._scale = paddle.to_tensor(scale.astype(np.float32))
        self._shift = paddle.to_tensor(shift.astype(np.float32))

    def __call__(
        self, batch: Dict[str, Any], rng: Optional[np.random.Generator] = None
    ) -> Dict[str, Any]:
        pixels = batch["image"].astype("float32") * self._scale + self._shift
        return {**batch, "image": pixels.transpose([0, 3, 1, 2])}
