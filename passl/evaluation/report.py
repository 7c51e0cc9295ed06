"""A page that shows what an evaluation got right and wrong, and where."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import paddle
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from paddle.nn import functional as F

from passl.datasets import ImageDataset
from passl.evaluation.base import Evaluator
from passl.utils.contact_sheet import contact_sheet, in_rows
from passl.utils.fonts import installed_fonts
from passl.utils.pages import notes, picture, table, write_page

_WORST = 48  # mistakes that are shown
_PAIRS = 20  # of classes that are taken for one another
_TABLE = 30  # up to so many classes the confusion matrix is a table of numbers

_STYLE = """
.figures td { font-size: 1.2rem; } .figures td, .figures th { border: 0; padding-left: 0; }
.matrix { font-size: .8rem; }
.matrix td { border: 1px solid #fff; min-width: 1.6rem; text-align: center; }
.matrix th.column { writing-mode: vertical-rl; transform: rotate(180deg); border: 0; }
"""


class Answers:
    """Collects what a network answers for each image of an evaluation, in their order.

    Attributes:
        labels, predicted: int64 ``[n]``.
        confidence: the probability of what was predicted, by a softmax; float32 ``[n]``.
        label_probability: that of the label.
    """

    def __init__(self) -> None:
        self._parts: List[Tuple[np.ndarray, ...]] = []

    def add(self, outputs: Dict[str, Any], batch: Dict[str, Any]) -> None:
        """Takes in the ``logits`` ``[N, K]`` and the ``label`` of a batch."""
        label = batch["label"]
        probabilities = F.softmax(outputs["logits"].astype("float32"), axis=-1)
        predicted = probabilities.argmax(axis=-1)
        of_label = paddle.take_along_axis(probabilities, label.unsqueeze(-1), axis=-1)[:, 0]
        parts = label, predicted, probabilities.max(axis=-1), of_label
        self._parts.append(tuple(part.numpy() for part in parts))

    def __getattr__(self, name: str) -> np.ndarray:
        fields = ("labels", "predicted", "confidence", "label_probability")
        if name not in fields:
            raise AttributeError(name)
        return np.concatenate([part[fields.index(name)] for part in self._parts])


def write_report(
    folder: Path,
    answers: Answers,
    dataset: ImageDataset,
    names: Sequence[str],
    evaluator: Evaluator,
    result: Dict[str, Any],
    facts: Dict[str, str],
) -> Path:
    """Writes ``report.html``, one file that needs no other.

    It has the figures of the evaluation, the accuracy of every class, the confusion matrix and
    the pairs of classes that are taken for one another, and the images that the network was surest
    about and wrong.

    Args:
        folder: where to; it is made.
        answers: of all images of ``dataset``, in their order.
        dataset: the set.
        names: of the classes.
        evaluator: says what the result means.
        result: what it returned.
        facts: what else stands at the head of the page.

    Raises:
        PasslError: it cannot be written.
    """
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (answers.labels, answers.predicted), 1)
    parts = [
        _head(evaluator, result, facts),
        "<h2>Surest mistakes</h2>",
        _mistakes(answers, dataset, names),
        "<h2>Classes that are taken for one another</h2>",
        _pairs(matrix, names),
        "<h2>Confusion matrix</h2>",
        _matrix(matrix, names),
        "<h2>Accuracy of each class, the lowest first</h2>",
        _classes(matrix, names),
    ]
    path = folder / "report.html"
    write_page(path, f"Evaluation: {evaluator.headline(result)}", parts, _STYLE)
    return path


def _head(evaluator: Evaluator, result: Dict[str, Any], facts: Dict[str, str]) -> str:
    figures = {**evaluator.shown(result), "images": f"{result['samples']:,}"}
    return (
        "<h1>Evaluation</h1>"
        + table([list(figures), list(figures.values())], "figures")
        + notes(facts)
    )


def _mistakes(answers: Answers, dataset: ImageDataset, names: Sequence[str]) -> str:
    wrong = np.flatnonzero(answers.labels != answers.predicted)
    if not len(wrong):
        return "<p>There are none.</p>"
    confidence, labels, predicted = answers.confidence, answers.labels, answers.predicted
    name_of = installed_fonts().name_of
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:_WORST]
    cells = [
        (
            np.asarray(dataset.read(int(i))),
            f"{100 * confidence[i]:.1f} % {name_of(names[predicted[i]], predicted[i])}\n"
            f"is {name_of(names[labels[i]], labels[i])}",
        )
        for i in chosen
    ]
    sheet = contact_sheet(in_rows(cells))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    places = "".join(f"<li>{html.escape(dataset.where(int(i)))}</li>" for i in chosen)
    return (
        f'<p class="note">{len(wrong):,} of {len(labels):,} images; above each what the network '
        "says, and how sure it is of it, then what the image is labelled.</p>"
        + picture(buffer.getvalue(), "jpeg", "the surest mistakes")
        + f"<details><summary>their files, in the same order</summary><ol>{places}</ol></details>"
    )


def _pairs(matrix: np.ndarray, names: Sequence[str]) -> str:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    rows = [["labelled", "taken for", "images", "of the class"]]
    for label, predicted in zip(*np.unravel_index(order, wrong.shape)):
        count = wrong[label, predicted]
        if count:
            share = f"{100 * count / matrix[label].sum():.1f} %"
            rows.append([names[label], names[predicted], f"{count:,}", share])
    return table(rows, text=2) if len(rows) > 1 else "<p>There are none.</p>"


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> str:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(names) > _TABLE:
        side = min(12.0, 4 + len(names) / 60)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xlabel("predicted label")
        axes.set_ylabel("label")
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        return picture(buffer.getvalue(), "png", "confusion matrix")
    columns = "".join(f'<th class="column">{html.escape(name)}</th>' for name in names)
    lines = [f"<tr><th>labelled \\ predicted</th>{columns}</tr>"]
    for label, name in enumerate(names):
        cells = "".join(
            f'<td style="background: rgb(31 119 180 / {share:.2f})'
            f'{"; color: #fff" if share > 0.55 else ""}">{count if count else ""}</td>'
            for count, share in zip(matrix[label], shares[label])
        )
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return '<div class="scroll"><table class="matrix">' + "".join(lines) + "</table></div>"


def _classes(matrix: np.ndarray, names: Sequence[str]) -> str:
    counts = matrix.sum(axis=1)
    present = np.flatnonzero(counts)
    accuracy = matrix.diagonal()[present] / counts[present]
    predicted = matrix.sum(axis=0)
    rows = [["class", "images", "accuracy", "predicted", "precision"]]
    for i in np.argsort(accuracy, kind="stable"):
        label = present[i]
        often = predicted[label]
        precision = f"{100 * matrix[label, label] / often:.1f} %" if often else "–"
        rows.append(
            [
                names[label],
                f"{counts[label]:,}",
                f"{100 * accuracy[i]:.1f} %",
                f"{often:,}",
                precision,
            ]
        )
    return '<div class="scroll">' + table(rows) + "</div>"
