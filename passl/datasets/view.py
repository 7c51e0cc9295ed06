"""How a config has images looked at outside of training: their evaluation view."""

from __future__ import annotations

from typing import Any, Dict, List

from passl.datasets.image_size import image_size
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.transforms.base import BatchTransform
from passl.utils.config import Config, origin_of, plain, split_section
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.zoo import get_release

_VIEW = {"name": "ResizeCenterCrop", "crop_ratio": 0.875}
_LINE = (
    "-o 'dataloader.val={dataset: {name: ImageFolder, transforms: [{name: ResizeCenterCrop, size: "
    "224}]}, batch_transforms: [{name: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}], "
    "sampler: {batch_size: 8}}'"
)


def evaluation_view(cfg: Config) -> Config:
    """Returns the section that says how images are looked at: ``val``, or else ``test``.

    A config without either has the view of the release that its ``preprocessing`` names, or a
    central crop of the size that is trained on, and the normalisation of its training; that is
    said in one line.

    Raises:
        PasslError: there is no training section either, or it gives images no size.
    """
    sections = cfg.dataloader
    for split in ("val", "test"):
        if sections[split] is not None:
            return sections[split]
    train = split_section(cfg, "train")
    if cfg.preprocessing is not None:
        transforms = get_release(cfg.preprocessing).preprocessing.transforms()
    else:
        transforms = [{**_VIEW, "size": _size(train)}]
    parts = [part for part in plain(train.batch_transforms) if not _is_random(part)]
    dataset = {"name": train.dataset.get("name"), "transforms": transforms}
    view = Config({**plain(train), "dataset": dataset, "batch_transforms": parts})
    logger.info("no dataloader.val: images are looked at through %s", words_of_view(view))
    return view


def words_of_view(section: Config) -> str:
    """Returns in words how a section has images looked at."""
    transforms = _words(plain(section.dataset.get("transforms")) or [])
    then = _words(plain(section.batch_transforms) or [])
    return f"{transforms or 'nothing'}, then {then or 'nothing else'}"


def evaluated_section(cfg: Config, split: str) -> Config:
    """Returns the section of a split, to evaluate it; training images get the evaluation view.

    Raises:
        PasslError: the config has no such section.
    """
    section = split_section(cfg, split)
    if split != "train":
        return section
    view = evaluation_view(cfg)
    transforms = plain(view.dataset.get("transforms")) or []
    if transforms != plain(section.dataset.get("transforms")):
        through = f"through {_words(transforms)}" if transforms else "as they are"
        logger.info("the training images are evaluated %s", through)
    dataset = {**plain(section.dataset), "transforms": transforms}
    parts = {"dataset": dataset, "batch_transforms": plain(view.batch_transforms)}
    return Config({**plain(section), **parts}, "dataloader.train", section.origins)


def _size(train: Config) -> List[int]:
    try:
        return list(image_size(train))
    except PasslError as error:
        raise PasslError(
            f"there is no dataloader.val, and {error.args[0]}; say how to look at images: {_LINE}",
            origin_of(train, "dataset"),
        ) from None


def _is_random(part: Dict[str, Any]) -> bool:
    return bool(BATCH_TRANSFORMS.attribute(part["name"], "random", BatchTransform.random))


def _words(parts: List[Dict[str, Any]]) -> str:
    described = []
    for part in parts:
        settings = ", ".join(f"{key} {value}" for key, value in part.items() if key != "name")
        described.append(f"{part['name']} ({settings})" if settings else part["name"])
    return ", ".join(described)
