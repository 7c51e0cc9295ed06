"""What a network is given, made visible again."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np

from passl.datasets.dataset import ImageDataset, image_fields
from passl.datasets.loading.loader import Loader
from passl.datasets.transforms.base import BatchTransform, stated
from passl.utils.contact_sheet import Cell
from passl.utils.fonts import installed_fonts


def label_name(dataset: ImageDataset, label: int) -> str:
    """Returns what a class is called in a picture: its number where no name can be drawn."""
    if dataset.class_names is None:
        return f"class {label}"
    return installed_fonts().name_of(dataset.class_names[label], label)


def batch_cells(batch: Dict[str, Any], loader: Loader, most: int = 64) -> List[Cell]:
    """Returns the images of a batch for a contact sheet: each with its label and its other views.

    Args:
        batch: as the loader yields it, with ``image``, float ``[N, 3, H, W]``, ``label`` where
            there are labels, and further views (``image_1``, …), which follow their first; mixed
            images have two lines, with the shares of both labels.
        loader: where it comes from; its normalisation is undone.
        most: at most so many cells.
    """
    mean, std = np.zeros(3), np.ones(3)
    for transform in loader.batch_transforms:
        if stated(transform, BatchTransform, "mean") is not None:
            mean, std = np.asarray(transform.mean), np.asarray(transform.std)
    views = []
    for name in image_fields(batch):
        images = batch[name][:most].astype("float32").numpy().transpose(0, 2, 3, 1) * std + mean
        views.append((images.clip(0, 1) * 255).round().astype(np.uint8))
    cells = []
    for i, images in enumerate(zip(*views)):
        titles = [_title(batch, loader.dataset, i)]
        titles += [f"view {number}" for number in range(2, len(images) + 1)]
        cells += zip(images, titles)
    return cells[:most]


def _title(batch: Dict[str, Any], dataset: ImageDataset, i: int) -> str:
    """Returns what stands below an image: its label, both of a mixed one; nothing without any."""
    if "label" not in batch:
        return ""
    title = label_name(dataset, int(batch["label"][i]))
    if "partner_label" not in batch:
        return title
    share = float(batch["partner_weight"][i])
    other = label_name(dataset, int(batch["partner_label"][i]))
    return f"{1 - share:.2f} {title}\n{share:.2f} {other}"
