"""A network in one call, with released weights if there are any."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import os
from typing import Any, List, Mapping, Optional, Union

from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.errors import PasslError, listing, suggest
from passl.utils.plugins import import_plugins
from passl.weights import WeightFile, count_classes, load_weights

# What timm's create_model takes, and how one has the same here.
_POOLING = (
    "with num_classes=0 the network gives pooled features; model.forward_features(images) those "
    "before pooling"
)
_STAGES = (
    "model.forward_features(images) gives the features before pooling, and "
    "model.backbone.forward_stages(images) those of each stage, where the network has stages"
)
_FILE = "a weight file is given with pretrained=FILE"
_OF_TIMM = {
    "img_size": "this network takes images of any size; leave it out",
    "in_chans": "it is called in_channels here",
    "drop_path": "it is called drop_path_rate here",
    "proj_drop_rate": "it is called drop_rate here",
    "drop_block_rate": "these networks have none; leave it out",
    "global_pool": _POOLING,
    "features_only": _STAGES,
    "out_indices": _STAGES,
    "checkpoint_path": _FILE,
    "pretrained_cfg": _FILE,
    "pretrained_cfg_overlay": _FILE,
    "cache_dir": f"nothing is fetched; {_FILE}",
}


def create_model(
    name: str,
    pretrained: Optional[Union[str, os.PathLike, bool]] = None,
    num_classes: Optional[int] = None,
    weights_key: Optional[str] = None,
    allow_partial: bool = False,
    freeze_backbone: bool = False,
    **arguments: Any,
) -> Network:
    """Returns a network: images in, logits (or features) out, in evaluation mode.

    Args:
        name: of a backbone: ``mlp_mixer_b16_224``.
        pretrained: a weight file, whoever released it; see ``passl.weights.WeightFile``. None or
            False: none. Nothing is ever fetched.
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
    import_plugins()
    _check(name, pretrained, arguments)
    cfg = {"name": name, **arguments}
    if pretrained is None or pretrained is False:
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


def list_models(pattern: str = "*", pretrained: bool = False) -> List[str]:
    """Returns the names of networks, or of released weights.

    Args:
        pattern: with ``*`` and ``?``, as of files: ``*mixer*``.
        pretrained: whether to list the releases, ``<network>.<origin>``, which
            ``create_model`` takes as well.

    Example:
        >>> passl.list_models("mlp_mixer_l*")
        ['mlp_mixer_l16_224', 'mlp_mixer_l32_224']
        >>> passl.list_models("*mixer_l*", pretrained=True)
        ['mlp_mixer_l16_224.goog_in1k', 'mlp_mixer_l16_224.goog_in21k']
    """
    import_plugins()
    names = list(zoo.releases()) if pretrained else BACKBONES.variants()
    return sorted(fnmatch.filter(names, pattern))


def _build(cfg: Any, num_classes: int) -> Network:
    head = {
        "name": BACKBONES.attribute(cfg["name"], "default_head", "ClassificationHead"),
        "num_classes": num_classes,
    }
    return Network(cfg, head if num_classes else None)


def _check(name: str, pretrained: Any, arguments: Mapping[str, Any]) -> None:
    """Raises a PasslError of one line for what is easily mistaken, by users of timm above all."""
    if isinstance(name, str) and "." in name and name not in BACKBONES.names():
        network = name.partition(".")[0]
        near = difflib.get_close_matches(network, BACKBONES.names(), 1)
        raise PasslError(
            f"'{name}' names weights; nothing is fetched: create_model('{near[0] if near else '…'}'"
            ", pretrained=FILE) takes a file of them, and passl models tells where it is from"
        )
    known = {**inspect.signature(create_model).parameters, **BACKBONES.arguments(name)}
    del known["arguments"]
    for key in arguments:
        if key not in known:
            words = f"unknown argument '{key}' of create_model('{name}')"
            if key in _OF_TIMM:
                raise PasslError(f"{words}: {_OF_TIMM[key]}")
            raise PasslError(f"{words}{suggest(key, known)}; it takes: {listing(known)}")
    if pretrained is True:
        files = {
            file.name: None
            for release in zoo.releases().values()
            if release.name.partition(".")[0] == name
            for file in release.files
        }
        raise PasslError(
            f"pretrained=True: nothing is fetched; give the path of a weight file, pretrained=FILE"
            f"{', one of: ' + ', '.join(files) if files else ''} (passl models tells where they "
            "are from)"
        )
    if not (pretrained is None or isinstance(pretrained, (bool, str, os.PathLike))):
        raise PasslError(f"pretrained is the path of a weight file, not {pretrained!r:.60}")
