"""Data: where images come from, how they are decoded, transformed, ordered and batched.

A sample is a dict of named fields: ``image``, ``label`` where there are labels, ``image_1`` and so
on where an image has several views, and what transforms add. A transform takes and returns the
whole sample; a batch keeps the names. A new file here registers itself.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional

from passl.datasets.dataset import ImageDataset, SampleKey
from passl.datasets.images.decoding import MAX_PIXELS
from passl.datasets.images.failures import UnreadableImage
from passl.datasets.loading.loader import Loader, StandIn, dead_worker, section_loader
from passl.datasets.loading.sampler import EvaluationBatches, TrainingBatches
from passl.datasets.registry import BATCH_TRANSFORMS, DATASETS, TRANSFORMS
from passl.datasets.sources.synthetic import with_synthetic_data
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_dataset(cfg: Mapping[str, Any], max_pixels: Optional[int] = MAX_PIXELS) -> ImageDataset:
    """Builds the dataset that ``cfg`` (``name``, arguments, ``transforms``) describes.

    Args:
        cfg: the section ``dataset`` of a split.
        max_pixels: the most pixels of an image that is decoded; None for any number.
    """
    dataset = DATASETS.build(cfg)
    dataset.max_pixels = max_pixels
    return dataset


__all__ = [
    "BATCH_TRANSFORMS",
    "DATASETS",
    "TRANSFORMS",
    "EvaluationBatches",
    "ImageDataset",
    "Loader",
    "SampleKey",
    "StandIn",
    "TrainingBatches",
    "UnreadableImage",
    "build_dataset",
    "dead_worker",
    "section_loader",
    "with_synthetic_data",
]
