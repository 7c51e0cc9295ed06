"""What a network is given, made visible again."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np

from passl.datasets.dataset import ImageDataset, image_fields
from passl.datasets.loading.loader import Loader
from passl.datasets.transforms.base import BatchTransform, stated
from passl.datasets.transforms.tokenize import Tokenize
from passl.utils.contact_sheet import Cell
from passl.utils.fonts import installed_fonts


def label_name(dataset: ImageDataset, label: int) -> str:
    """Returns what a class is called in a picture: its number where no name can be drawn."""
    if dataset.class_names is None:
        return f"class {label}"
    return installed_fonts().name_of(dataset.class_names[label], label)


# Letters of a caption that are drawn at most: no cell has place for more.
_LONGEST = 200


def as_title(caption: str) -> str:
    """Returns a caption as it stands above a picture: in one line, and no longer than it may be."""
    return " ".join(caption[: 2 * _LONGEST].split())[:_LONGEST]


def words_read(dataset: ImageDataset, ids: Sequence[int]) -> str:
    """Returns the words that a network is given with an image; none where it is given none.

    Args:
        dataset: whose ``Tokenize`` made them.
        ids: of the text, ``[context]``.
    """
    tokenizing = [part for part in dataset.transforms if isinstance(part, Tokenize)]
    return as_title(tokenizing[-1].tokenizer.decode(list(ids))) if tokenizing else ""


def view_titles(views: Sequence[np.ndarray]) -> List[str]:
    """Returns what several views of an image are called; of a single one nothing.

    Args:
        views: ``[H, W, 3]``, in their order; where they differ in size, it is told.
    """
    sizes = [f", {view.shape[1]} × {view.shape[0]}" for view in views]
    if len(set(sizes)) == 1:
        sizes = [""] * len(views)
    return [f"view {v}{size}" if len(views) > 1 else "" for v, size in enumerate(sizes, 1)]


def batch_cells(batch: Dict[str, Any], loader: Loader, most: int = 64) -> List[Cell]:
    """Returns the images of a batch for a contact sheet: with label or text, and the other views.

    Args:
        batch: as the loader yields it, with ``image``, float ``[N, 3, H, W]``, ``label`` where
            there are labels, or ``text``, ids ``[N, context]``, where there are texts, and further
            views (``image_1``, …), which follow their first; mixed images have two lines, with the
            shares of both labels.
        loader: where it comes from; its normalisation is undone.
        most: at most so many cells, or all views of the first image.
    """
    mean, std = np.zeros(3), np.ones(3)
    for transform in loader.batch_transforms:
        if stated(transform, BatchTransform, "mean") is not None:
            mean, std = np.asarray(transform.mean), np.asarray(transform.std)
    views, names = [], image_fields(batch)
    for name in names:
        images = batch[name][: max(1, most // len(names))]
        images = images.astype("float32").numpy().transpose(0, 2, 3, 1) * std + mean
        views.append((images.clip(0, 1) * 255).round().astype(np.uint8))
    cells = []
    for i, images in enumerate(zip(*views)):
        title = _title(batch, loader.dataset, i)
        for image, view in zip(images, view_titles(images)):
            # The label stands above the first view alone; the numbers of all are in one line.
            told = "label" in batch or "text" in batch
            cells.append((image, f"{title}\n{view}" if told and view else title or view))
            title = ""
    return cells


def _title(batch: Dict[str, Any], dataset: ImageDataset, i: int) -> str:
    """Returns what stands above an image: its label or labels, or its text; nothing without any."""
    if "label" not in batch:
        return words_read(dataset, batch["text"][i].tolist()) if "text" in batch else ""
    title = label_name(dataset, int(batch["label"][i]))
    if "partner_label" not in batch:
        return title
    share = float(batch["partner_weight"][i])
    other = label_name(dataset, int(batch["partner_label"][i]))
    return f"{1 - share:.2f} {title}\n{share:.2f} {other}"
