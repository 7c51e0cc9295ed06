"""What a network is given, made visible again."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np

from passl.datasets.dataset import ImageDataset
from passl.datasets.loading.loader import Loader
from passl.utils.contact_sheet import Cell
from passl.utils.fonts import installed_fonts


def label_name(dataset: ImageDataset, label: int) -> str:
    """Returns what a class is called in a picture: its number where no name can be drawn."""
    if dataset.class_names is None:
        return f"class {label}"
    return installed_fonts().name_of(dataset.class_names[label], label)


def batch_cells(batch: Dict[str, Any], loader: Loader, most: int = 64) -> List[Cell]:
    """Returns the images of a batch with their labels, for a contact sheet.

    Args:
        batch: as the loader yields it, with ``image``, float ``[N, 3, H, W]``, and ``label``; mixed
            images have two lines, with the shares of both labels.
        loader: where it comes from; its normalisation is undone.
        most: at most so many images.
    """
    mean, std = np.zeros(3), np.ones(3)
    for transform in loader.batch_transforms:
        if hasattr(transform, "mean"):
            mean, std = np.asarray(transform.mean), np.asarray(transform.std)
    images = batch["image"][:most].astype("float32").numpy().transpose(0, 2, 3, 1) * std + mean
    cells = []
    for i, image in enumerate(images):
        title = label_name(loader.dataset, int(batch["label"][i]))
        if "partner_label" in batch:
            share = float(batch["partner_weight"][i])
            other = label_name(loader.dataset, int(batch["partner_label"][i]))
            title = f"{1 - share:.2f} {title}\n{share:.2f} {other}"
        cells.append(((image.clip(0, 1) * 255).round().astype(np.uint8), title))
    return cells
