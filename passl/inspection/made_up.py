"""Batches as the first steps of a training would get them, and such of noise."""

from __future__ import annotations

import functools
from typing import Any, Dict, List, Sequence

import numpy as np

from passl.datasets import ImageDataset, Loader, SampleKey
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.seeding import batch_rng


def first_steps(
    cfg: Config, dataset: ImageDataset, batches: Sequence[List[SampleKey]] = ()
) -> Loader:
    """Returns a loader of some batches that transforms them as the first steps of training do."""
    transforms = cfg.dataloader.train.batch_transforms
    return Loader(dataset, batches, transforms, batch_rng=functools.partial(batch_rng, cfg.seed))


def made_up_batch(
    cfg: Config, dataset: ImageDataset, architecture: Architecture, count: int
) -> Dict[str, Any]:
    """Returns a batch of noise as training would get it, made of the fields of the first sample.

    Args:
        cfg: the whole config.
        dataset: the training set.
        architecture: its ``num_classes``, if any, tells the labels.
        count: samples.
    """
    classes = getattr(architecture, "num_classes", 1)
    rng = np.random.default_rng(cfg.seed)
    return first_steps(cfg, dataset).made_up_batch(dataset[0], count, classes, rng)
