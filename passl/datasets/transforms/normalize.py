"""From pixels to what the network expects."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np
import paddle

from passl.datasets.dataset import image_fields
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.transforms.base import BatchTransform
from passl.utils.errors import PasslError


@BATCH_TRANSFORMS.register
class Normalize(BatchTransform):
    """Turns pixels into what the network expects: ``(x / 255 - mean) / std``.

    It runs on the device, so that one byte a value crosses to it instead of four.

    Args:
        mean, std: one value a channel, or a single one for all, on the scale of 0 to 1.

    Shape:
        every field of images (``image``, ``image_1``, …): uint8 ``[N, H, W, C]`` becomes float32
        ``[N, C, H, W]``.

    Raises:
        PasslError: values on another scale, or, when called, not as many as channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise PasslError(
                f"mean and std have one value a channel, std above 0; not {mean!r} and {std!r}"
            )
        for name, values in (("mean", mean), ("std", std)):
            if not all(0 <= value <= 1 for value in values):
                raise PasslError(
                    f"{name} is on the scale of 0 to 1, not {list(values)}; values on the scale of "
                    "0 to 255 are to be divided by 255"
                )
        self.mean, self.std = list(mean), list(std)
        scale = 1.0 / (255.0 * np.asarray(std, np.float64))
        shift = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
        self._scale = paddle.to_tensor(scale.astype(np.float32))
        self._shift = paddle.to_tensor(shift.astype(np.float32))

    def __call__(
        self, batch: Dict[str, Any], rng: Optional[np.random.Generator] = None
    ) -> Dict[str, Any]:
        return {**batch, **{name: self._normalized(batch[name]) for name in image_fields(batch)}}

    def _normalized(self, images: paddle.Tensor) -> paddle.Tensor:
        shape = images.shape
        if len(self.mean) not in (1, shape[-1]):
            raise PasslError(
                f"Normalize has {len(self.mean)} values of mean and std, but gets images of the "
                f"shape {list(shape)}, the channels at the end; give a value for each, and "
                "Normalize once and first"
            )
        pixels = images.astype("float32") * self._scale + self._shift
        return pixels.transpose([0, 3, 1, 2])
