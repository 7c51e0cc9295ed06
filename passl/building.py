"""A network in one call, with released weights if there are any."""

from __future__ import annotations

import fnmatch
import inspect
import os
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.config import get_config
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
_ARCHITECTURE = "model.architecture."
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
    "cache_dir": "what is fetched is kept in the folder weights of PASSL_CACHE, if that is set",
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
        name: of a backbone, ``mlp_mixer_b16_224``, or of a release, whose network it then is,
            ``mlp_mixer_b16_224.goog_in1k``.
        pretrained: a weight file, whoever released it; see ``passl.weights.WeightFile``. Or the
            name of a release, or an address, whose file is fetched once and kept. True: the release
            that ``name`` is, or else the first one of that network that ``passl models`` lists.
            None or False: none, and nothing is fetched.
        num_classes: number of logits; 0 for features without a head. Where it is not that of
            the file, the head begins anew. Default: as many as the file has, or 1000.
        weights_key: which of the file's mappings to take, where it has several.
        allow_partial: load what fits of the file, and say what does not.
        freeze_backbone: only the head learns: a linear probe.
        **arguments: of the backbone, such as ``img_size`` or ``drop_path_rate``.

    Returns:
        The network, ``[N, 3, H, W]`` to ``[N, num_classes]`` or ``[N, num_features]``.

    Raises:
        PasslError: an unknown name or argument, or a file that cannot be had or does not fit.

    Example:
        >>> model = passl.create_model("mlp_mixer_b16_224", pretrained="Mixer-B_16.npz")
        >>> model(images).shape
        [8, 1000]
        >>> model = passl.create_model("mlp_mixer_b16_224.goog_in1k", pretrained=True)
    """
    import_plugins()
    name, pretrained, settings = _resolve(name, pretrained)
    _check(name, pretrained, arguments)
    cfg = {"name": name, **settings, **arguments}
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


def _resolve(name: str, pretrained: Any) -> Tuple[str, Any, Dict[str, Any]]:
    """Returns the backbone and the weights that are meant, and what the backbone is built with.

    Of a release that differs from the network of its name (``patch_size``, ``qkv_bias``, …), these
    are the arguments that make it so.
    """
    releases = zoo.releases()
    chosen = None
    if isinstance(name, str) and name not in BACKBONES.names():
        chosen = releases.get(name.partition("@")[0])
        if chosen is None and "." in name:
            raise PasslError(
                f"no released weights are called '{name}'{_meant(name)}; passl models lists them"
            )
    if pretrained is True and chosen is None:
        networks = zoo.networks()
        of_network = networks.get(str(name))
        if not of_network:
            raise PasslError(
                f"pretrained=True: there are no released weights of '{name}'"
                f"{suggest(name, networks)}; passl models lists them"
            )
        pretrained = of_network[0]
    elif pretrained is True:
        pretrained = name
    release = chosen
    if isinstance(pretrained, str) and not os.path.lexists(pretrained):
        release = releases.get(pretrained.partition("@")[0], chosen)
    if release is None:
        return name, pretrained, {}
    section = get_config(release.config, release.overrides).model.architecture
    backbone = name if chosen is None else section.name
    if section.name != backbone:
        return backbone, pretrained, {}
    keys = [
        override[len(_ARCHITECTURE) :].partition("=")[0]
        for override in release.overrides
        if override.startswith(_ARCHITECTURE)
    ]
    return backbone, pretrained, {key: section[key] for key in keys if key != "name"}


def _meant(name: str) -> str:
    """Returns which release may be meant by a name that is none: timm's for it, or a near one."""
    page = f"{zoo.HUGGING_FACE}timm/{name}"
    for release in zoo.releases().values():
        if any(file.url == page for file in release.files):
            return f" here; what timm calls so is '{release.name}'"
    return suggest(name, zoo.releases())


def _check(name: str, pretrained: Any, arguments: Mapping[str, Any]) -> None:
    """Raises a PasslError of one line for what is easily mistaken, by users of timm above all."""
    known = {**inspect.signature(create_model).parameters, **BACKBONES.arguments(name)}
    del known["arguments"]
    for key in arguments:
        if key not in known:
            words = f"unknown argument '{key}' of create_model('{name}')"
            if key in _OF_TIMM:
                raise PasslError(f"{words}: {_OF_TIMM[key]}")
            raise PasslError(f"{words}{suggest(key, known)}; it takes: {listing(known)}")
    if not (pretrained is None or isinstance(pretrained, (bool, str, os.PathLike))):
        raise PasslError(f"pretrained is the path of a weight file, not {pretrained!r:.60}")
