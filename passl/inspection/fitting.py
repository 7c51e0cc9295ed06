"""How many images a machine can learn from at a time."""

from __future__ import annotations

from typing import Sequence

import paddle
import psutil

from passl.inspection.costs import kept_for_backward
from passl.modeling.architectures import build_architecture
from passl.utils.config import Config

_TRIED = 2  # images; as many as a batch norm needs
_SHARE = 0.7  # of the memory; the rest is for what is in use while a layer computes
# Weights, gradients, AdamW's two moments, and a copy of the weights while they are saved.
_COPIES = 5


def images_that_fit(cfg: Config, image_shape: Sequence[int], most: int, memory: int) -> int:
    """Returns how many images a training step can take at a time, a power of two, at least 1.

    What a forward pass keeps for the backward pass is counted on two made-up images, and grows with
    their number. PaddlePaddle 2 does not let it be counted: there it is ``most``.

    Args:
        cfg: whose network, settings of precision left aside: they only need less.
        image_shape: C, H, W.
        most: a power of two, which is enough.
        memory: bytes.
    """
    network = build_architecture(cfg.model)
    batch = {
        "image": paddle.randn([_TRIED, *image_shape]),
        "label": paddle.zeros([_TRIED], "int64"),
    }
    network.train()
    kept = kept_for_backward(network, lambda: network(batch), cfg.recompute) / _TRIED
    weights = _COPIES * sum(p.size * p.element_size() for p in network.parameters())
    while most > 1 and weights + most * kept > _SHARE * memory:
        most //= 2
    return most


def memory_of(device: str) -> int:
    """Returns the bytes of memory that a device has: a GPU's own, or what is free of the machine's.

    Args:
        device: ``gpu`` or ``cpu``.
    """
    if device.startswith("gpu"):
        return paddle.device.cuda.get_device_properties().total_memory
    return psutil.virtual_memory().available
