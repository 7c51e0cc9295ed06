"""What backbones that keep one number of tokens and channels from end to end have in common."""

from __future__ import annotations

from typing import Dict, Sequence

from paddle import nn


def column_depths(network: nn.Layer, stem: Sequence[str] = ("stem",)) -> Dict[str, int]:
    """Returns how deep each parameter lies, from 0, for layer-wise learning rates: as in timm.

    The stem is the first layer, each block one, and the norm at the end belongs to the last block.

    Args:
        network: a backbone of ``stem``, ``blocks`` and ``norm``.
        stem: parts of it that lie before the blocks.
    """
    last = len(network.blocks)

    def depth(name: str) -> int:
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if part in stem else last

    return {name: depth(name) for name, _ in network.named_parameters()}
