"""How deep the parameters of a network of stages lie."""

from __future__ import annotations

from typing import Dict, Tuple, Union

from paddle import nn


def staged_depths(
    backbone: nn.Layer, stem: Union[str, Tuple[str, ...]], network: str = "network"
) -> Dict[str, int]:
    """Returns the depth of each parameter, from 0, for layer-wise learning rates.

    The stem is the first layer, each block one; what lies before a stage belongs to its first
    block, and what is elsewhere to the last block.

    Args:
        backbone: the network; its attribute ``network`` has stages, lists of blocks, and layers
            between them.
        stem: how names of the stem's parameters begin.
        network: the attribute's name.
    """
    places, blocks = {}, 0
    for i, part in enumerate(getattr(backbone, network)):
        if not isinstance(part, nn.LayerList):
            places[f"{network}.{i}."] = blocks + 1
            continue
        for j, _ in enumerate(part):
            blocks += 1
            places[f"{network}.{i}.{j}."] = blocks

    def depth(name: str) -> int:
        if name.startswith(stem):
            return 0
        return next((d for place, d in places.items() if name.startswith(place)), blocks)

    return {name: depth(name) for name, _ in backbone.named_parameters()}
