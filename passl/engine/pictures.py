"""Pictures of a recipe: the learning rate over a run, and what augmentation makes of images."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import matplotlib
import numpy as np
import paddle
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from passl.datasets import ImageDataset, Loader, SampleKey
from passl.solver import Schedule
from passl.utils.config import Config
from passl.utils.seeding import batch_rng, epoch_order

Cell = Tuple[np.ndarray, str]

_COLUMNS = 6  # of a sheet
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
    FigureCanvasAgg(figure).print_png(str(path))


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
        row = [(np.asarray(dataset.read(index)), _label(dataset, int(dataset.labels[index])))]
        for epoch in range(_DRAWS):
            sample = dataset[SampleKey(index, epoch, 0, cfg.seed)]
            row.append((sample["image"], f"epoch {epoch + 1}"))
        rows.append(row)
    mixed = _mixed(cfg, dataset, [int(order[i % len(order)]) for i in range(_DRAWS + 1)])
    if mixed:
        rows.append(mixed)
    contact_sheet(rows).save(path)


def contact_sheet(rows: Sequence[Sequence[Cell]], side: int = 160) -> Image.Image:
    """Returns pictures in rows, each with a caption of up to two lines above it.

    Args:
        rows: pictures, uint8 ``[H, W, 3]`` of any sizes, and their captions.
        side: pixels that the longer side of each is brought to.
    """
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), 11)
    margin, caption = 4, 30
    step_x, step_y = side + 2 * margin, side + caption + margin
    sheet = Image.new(
        "RGB", (step_x * max(len(row) for row in rows), step_y * len(rows) + margin), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (pixels, text) in enumerate(row):
            picture = Image.fromarray(pixels)
            scale = side / max(picture.size)
            size = [max(1, round(length * scale)) for length in picture.size]
            # Small ones are not smoothed: their pixels are what one wants to see.
            method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
            left, top = x * step_x + margin, y * step_y
            for line, words in enumerate(text.split("\n")):
                draw.text((left, top + 3 + 13 * line), _fitting(words, font, side), "black", font)
            place = left + (side - size[0]) // 2, top + caption + (side - size[1]) // 2
            sheet.paste(picture.resize(size, method), place)
    return sheet


def _fitting(words: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns as much of a line as has place, with an ellipsis for the rest."""
    if font.getlength(words) <= width:
        return words
    while words and font.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def in_rows(cells: Sequence[Cell]) -> List[Sequence[Cell]]:
    """Returns pictures in rows of six, for a sheet."""
    return [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]


def first_steps(cfg: Config, dataset: ImageDataset) -> Loader:
    """Returns a loader that transforms batches as the first steps of training do."""
    transforms = cfg.dataloader.train.batch_transforms
    return Loader(dataset, [], transforms, batch_rng=functools.partial(batch_rng, cfg.seed))


def _label(dataset: ImageDataset, label: int) -> str:
    return f"class {label}" if dataset.class_names is None else dataset.class_names[label]


def _mixed(cfg: Config, dataset: ImageDataset, indices: List[int]) -> List[Cell]:
    """Returns a batch after its transforms, where one of them draws something; else nothing."""
    loader = first_steps(cfg, dataset)
    if not any(getattr(transform, "random", False) for transform in loader.batch_transforms):
        return []
    samples = [dataset[SampleKey(index, 0, 0, cfg.seed)] for index in indices]
    batch: Dict[str, Any] = {
        "image": paddle.to_tensor(np.stack([sample["image"] for sample in samples])),
        "label": paddle.to_tensor([sample["label"] for sample in samples]),
    }
    batch = loader.transform(batch)
    mean, std = np.zeros(3), np.ones(3)
    for transform in loader.batch_transforms:
        if hasattr(transform, "mean"):
            mean, std = np.asarray(transform.mean), np.asarray(transform.std)
    images = batch["image"].numpy().transpose(0, 2, 3, 1) * std + mean
    cells = []
    for i, image in enumerate(images):
        title = _label(dataset, int(batch["label"][i]))
        if "partner_label" in batch:
            share = float(batch["partner_weight"][i])
            other = _label(dataset, int(batch["partner_label"][i]))
            title = f"{1 - share:.2f} {title}\n{share:.2f} {other}"
        cells.append(((image.clip(0, 1) * 255).astype(np.uint8), title))
    return cells
