"""Checks of what all backbones take: arguments, and images."""

from __future__ import annotations

from typing import Any, Sequence, Union

import numpy as np

from passl.utils.errors import PasslError


def check_sizes(least: int = 1, **sizes: Union[int, Sequence[int]]) -> None:
    """Raises a PasslError that names the first size, or list with a size, below ``least``."""
    for name, given in sizes.items():
        smallest = given if isinstance(given, int) else min(given)
        if smallest < least:
            raise PasslError(f"{name} must be at least {least}, not {smallest}")


def check_drop_rate(drop_rate: float) -> None:
    """Raises a PasslError where a probability of dropout is none."""
    if not 0.0 <= drop_rate < 1.0:
        raise PasslError(f"drop_rate lies in [0, 1), not {drop_rate}")


def check_image_size(images: Any, img_size: Sequence[int]) -> None:
    """Raises a PasslError where images have another height and width than a network's."""
    if tuple(images.shape[2:]) != tuple(img_size):
        raise PasslError(
            f"this network was built for images of {img_size[0]}×{img_size[1]} (height×width) but "
            f"got {images.shape[2]}×{images.shape[3]}; change the transforms' size, or build it "
            "with another img_size"
        )


def check_input(images: Any, channels: int) -> None:
    """Raises a PasslError where a network is given no float tensor ``[N, channels, H, W]``."""
    wanted = f"images are one float tensor [N, {channels}, H, W], normalised"
    if isinstance(images, (list, tuple, np.ndarray)) or not hasattr(images, "shape"):
        raise PasslError(
            f"{wanted}, not a {type(images).__name__}; paddle.to_tensor makes a tensor of numbers"
        )
    shape = list(images.shape)
    if "int" in str(images.dtype).lower() or "bool" in str(images.dtype).lower():
        raise PasslError(
            f"{wanted}, not {str(images.dtype).rpartition('.')[2]} {shape}; Normalize in "
            "batch_transforms makes floats of them, and puts the channels before height and width"
        )
    if len(shape) == 4 and shape[1] == channels:
        return
    if len(shape) == 4 and shape[3] == channels:
        remedy = (
            "; the channels come before height and width, where Normalize in batch_transforms puts "
            "them: images.transpose([0, 3, 1, 2])"
        )
    elif len(shape) == 4:
        remedy = f"; build the network with in_channels={shape[1]}, or give it such images"
    else:
        remedy = "; one image is a batch of one: image.unsqueeze(0)" if len(shape) == 3 else ""
    raise PasslError(f"{wanted}, not {shape}{remedy}")
