"""Does the data fit the network? Asked before training or evaluation starts."""

from __future__ import annotations

from typing import Optional, Sequence

from passl.datasets import ImageDataset
from passl.modeling.architectures import Architecture
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError
from passl.utils.logging import logger


def check_classes(
    architecture: Architecture,
    dataset: ImageDataset,
    class_names: Optional[Sequence[str]],
    section: Config,
) -> None:
    """Makes sure that a label means the same to the data and to the network.

    Where both have class names the labels are numbered by name, so that a set that lacks some
    classes is still counted right.

    Args:
        architecture: its ``num_classes`` counts, where it has any.
        dataset: the set.
        class_names: what the network was or will be trained on, where that has names.
        section: the set's part of the config, for the message.

    Raises:
        PasslError: the labels do not fit.
    """
    num_classes = getattr(architecture, "num_classes", None)
    if num_classes is None:
        return
    place = origin_of(section, "dataset")
    own = dataset.class_names
    if own is not None and class_names is not None:
        missing = len(class_names) - len(own)
        try:
            dataset.use_classes(class_names)
        except PasslError as error:
            error.place = place
            raise
        if missing:
            logger.info("%s: has no image of %d classes", section.dataset.dataroot, missing)
    if dataset.class_names is not None and len(dataset.class_names) != num_classes:
        raise PasslError(
            f"{section.dataset.dataroot}: has {len(dataset.class_names)} classes, but "
            f"model.head.num_classes is {num_classes}; "
            f"set -o model.head.num_classes={len(dataset.class_names)}",
            place,
        )
    highest = int(dataset.labels.argmax())
    if dataset.labels[highest] >= num_classes:
        raise PasslError(
            f"{dataset.where(highest)}: label {int(dataset.labels[highest])}, but the config's "
            f"model.head.num_classes is {num_classes}, so labels go from 0 to {num_classes - 1}",
            place,
        )
