"""What a network says of images that have no labels."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import paddle

from passl.datasets import EvaluationBatches, ImageDataset, Loader, section_loader
from passl.evaluation.metrics import answered, probabilities
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.errors import PasslError

_FEW = 32  # images for which starting workers takes longer than they save


@dataclasses.dataclass
class Prediction:
    """The most probable classes of one image.

    Attributes:
        path: of the image.
        labels: of the classes, the most probable first.
        names: what they are called.
        probabilities: of each, by a softmax over all classes; also for networks that were trained
            with the sigmoid loss.
    """

    path: str
    labels: List[int]
    names: List[str]
    probabilities: List[float]

    def as_dict(self) -> Dict[str, Any]:
        """Returns what goes into a JSON file."""
        return dataclasses.asdict(self)


def prediction_loader(dataset: ImageDataset, section: Config, batch_size: int) -> Loader:
    """Returns a loader over images whose labels are their places; unreadable ones are left out."""
    return section_loader(
        section,
        dataset,
        EvaluationBatches(len(dataset), batch_size),
        num_workers=section.loader.num_workers if len(dataset) > _FEW else 0,
        max_unreadable=len(dataset),
    )


def predict(
    architecture: Architecture, loader: Loader, names: Sequence[str], topk: int
) -> Iterator[Prediction]:
    """Yields the ``topk`` most probable classes of each image, in the order of the images.

    Args:
        architecture: gives ``logits`` ``[N, K]``.
        loader: see ``prediction_loader``.
        names: of the K classes.
        topk: at most K.

    Raises:
        PasslError: at an image for which the logits are not finite.
    """
    for places, batch in prediction_batches(architecture, loader):
        found = probabilities(architecture(batch)["logits"])
        check_answers(loader, places, found, "logits")
        values, labels = paddle.topk(found, min(topk, len(names)))
        for place, row, chosen in zip(places, values.tolist(), labels.tolist()):
            path = loader.dataset.where(place)
            yield Prediction(path, chosen, [names[label] for label in chosen], row)


def check_answers(loader: Loader, places: List[int], found: paddle.Tensor, what: str) -> None:
    """Raises PasslError at an image for which the network gives numbers that are none."""
    for place, is_answer in zip(places, answered(found).tolist()):
        if not is_answer:
            raise PasslError(
                f"{loader.dataset.where(place)}: the {what} of the network are not finite (NaN or "
                "infinity) for it, so there is no answer; take other weights"
            )


def prediction_batches(
    architecture: Architecture, loader: Loader, none_will_do: bool = False
) -> Iterator[Tuple[List[int], Dict[str, Any]]]:
    """Yields the places of the images in the list, and a batch without labels.

    Args:
        architecture: the network; it is put into evaluation mode.
        loader: see ``prediction_loader``.
        none_will_do: whether it is no mistake that not one image can be read.

    Raises:
        PasslError: none of the images can be read.
    """
    architecture.eval()
    found = False
    with paddle.no_grad():
        for batch in loader:
            found = True
            yield batch.pop("label").tolist(), batch
    if not found and not none_will_do:
        raise PasslError(
            f"none of the {len(loader.dataset)} images can be read; the last: "
            f"{[*loader.unreadable][-1]}"
        )
