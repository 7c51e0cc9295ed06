"""A network in one call, with released weights if there are any."""

from __future__ import annotations

import os
from typing import Any, Optional, Union

from passl.modeling.backbones import BACKBONES
from passl.modeling.network import Network
from passl.weights import WeightFile, count_classes, load_weights


def create_model(
    name: str,
    pretrained: Optional[Union[str, os.PathLike]] = None,
    num_classes: Optional[int] = None,
    weights_key: Optional[str] = None,
    allow_partial: bool = False,
    freeze_backbone: bool = False,
    **arguments: Any,
) -> Network:
    """Returns a network: images in, logits (or features) out, in evaluation mode.

    Args:
        name: of a backbone: ``mlp_mixer_b16_224``.
        pretrained: a weight file, whoever released it; see ``passl.weights.WeightFile``.
        num_classes: number of logits; 0 for features without a head. Where it is not that of
            the file, the head begins anew. Default: as many as the file has, or 1000.
        weights_key: which of the file's mappings to take, where it has several.
        allow_partial: load what fits of the file, and say what does not.
        freeze_backbone: only the head learns: a linear probe.
        **arguments: of the backbone, such as ``img_size`` or ``drop_path_rate``.

    Returns:
        The network, ``[N, 3, H, W]`` to ``[N, num_classes]`` or ``[N, num_features]``.

    Raises:
        PasslError: an unknown name or argument, or a file that does not fit.

    Example:
        >>> model = passl.create_model("mlp_mixer_b16_224", pretrained="Mixer-B_16.npz")
        >>> model(images).shape
        [8, 1000]
    """
    cfg = {"name": name, **arguments}
    if pretrained is None:
        network = _build(cfg, 1000 if num_classes is None else num_classes)
    else:
        with WeightFile(pretrained, weights_key) as file:
            if num_classes is None:
                num_classes = count_classes(file, BACKBONES.attribute(name, "released_names", {}))
                num_classes = num_classes or 1000
            network = _build(cfg, num_classes)
            load_weights(network, file, allow_partial=allow_partial, new_head=True)
    if freeze_backbone:
        network.freeze_backbone()
    network.eval()
    return network


def _build(cfg: Any, num_classes: int) -> Network:
    head = {"name": "ClassificationHead", "num_classes": num_classes}
    return Network(cfg, head if num_classes else None)
