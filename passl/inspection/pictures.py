"""Pictures of a recipe: the learning rate over a run, and what augmentation makes of images."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from passl.datasets import ImageDataset, SampleKey
from passl.datasets.batch_cells import (
    as_title,
    batch_cells,
    label_name,
    view_titles,
    words_read,
)
from passl.datasets.dataset import Captioned, image_fields
from passl.datasets.transforms.base import BatchTransform, stated
from passl.inspection.made_up import first_steps
from passl.solver import Schedule
from passl.utils.config import Config
from passl.utils.contact_sheet import Cell, contact_sheet
from passl.utils.seeding import epoch_order
from passl.utils.whole_files import replacing

_IMAGES, _DRAWS = 6, 6  # rows and augmented columns of the grid


def draw_schedule(path: Path, schedule: Schedule, total_steps: int) -> None:
    """Draws the learning rate of every step, in epochs.

    Args:
        path: a PNG file.
        schedule: of the run.
        total_steps: its length.
    """
    steps = np.unique(np.linspace(0, total_steps - 1, 2000).astype(int))
    # The ends of ramps and the edges of stairs lie between: both sides of the warm-up's end.
    steps = np.union1d(
        steps, [s for s in (schedule.warmup - 1, schedule.warmup) if 0 <= s < total_steps]
    )
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps / schedule.steps_per_epoch, [schedule(int(step)) for step in steps])
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_xlim(0, total_steps / schedule.steps_per_epoch)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(
        f"{type(schedule).__name__}: peak {schedule.learning_rate:g} after {schedule.warmup:,} of "
        f"{total_steps:,} steps"
    )
    with replacing(path) as aside:
        FigureCanvasAgg(figure).print_png(str(aside))


def draw_augmented(path: Path, cfg: Config, dataset: ImageDataset) -> None:
    """Draws images of the training set as they are, as training sees them, and mixed.

    Args:
        path: a PNG file.
        cfg: the whole config; what is drawn is what the first epochs of its seed show.
        dataset: the training set.
    """
    order = epoch_order(cfg.seed, 0, len(dataset))
    chosen = [int(order[i % len(order)]) for i in range(_IMAGES)]
    rows: List[List[Cell]] = []
    for index in chosen:
        title = "as it is"
        if dataset.labels is not None:
            title = label_name(dataset, int(dataset.labels[index]))
        elif isinstance(dataset, Captioned):
            title = as_title(dataset.captions(index)[0])
        row = [(np.asarray(dataset.read(index)), title)]
        for epoch in range(_DRAWS):
            sample = dataset[SampleKey(index, epoch, 0, cfg.seed)]
            views = [sample[name] for name in image_fields(sample)]
            if epoch and len(row) + len(views) > 1 + _DRAWS:
                break  # all views of a draw are shown, whatever their number
            read = words_read(dataset, sample["text"].tolist()) if "text" in sample else ""
            for view, title in zip(views, view_titles(views)):
                row.append((view, f"epoch {epoch + 1}\n{title or read}".strip()))
        rows.append(row)
    mixed = _mixed(cfg, dataset, [int(order[i % len(order)]) for i in range(_DRAWS + 1)])
    if mixed:
        rows.append(mixed)
    with replacing(path) as aside:
        contact_sheet(rows).save(aside, format="PNG")


def _mixed(cfg: Config, dataset: ImageDataset, indices: List[int]) -> List[Cell]:
    """Returns a batch after its transforms, where one of them draws something; else nothing."""
    keys = [SampleKey(index, 0, 0, cfg.seed) for index in indices]
    loader = first_steps(cfg, dataset, [keys])
    if not any(stated(part, BatchTransform, "random") for part in loader.batch_transforms):
        return []
    return batch_cells(next(iter(loader)), loader, _DRAWS + 1)
