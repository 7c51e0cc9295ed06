"""A trained or released network in a program: its view of images, its names, its answers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np
import paddle
from PIL import Image

from passl.cli.common import weight_file
from passl.datasets import EvaluationBatches, Loader
from passl.datasets.sources.class_names import readable_names
from passl.datasets.sources.given import GivenImages
from passl.datasets.view import evaluation_view, words_of_view
from passl.deployment.predictor import Prediction, predict
from passl.evaluation.zero_shot import OF_LABELS, read_templates, zero_shot_classifier
from passl.modeling.architectures import Architecture, build_architecture
from passl.modeling.architectures.classifier import Network
from passl.utils.config import Config, get_config, plain
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.records import read_metrics
from passl.utils.run_folder import RECORDS, RUN_CONFIG
from passl.utils.zoo import get_release, releases
from passl.weights import load_weights

AnImage = Union[str, os.PathLike, Image.Image, np.ndarray]


class View:
    """How images are prepared for a network, as in its evaluation.

    Args:
        section: of a config's ``dataloader``.

    Shape:
        one image (a path, a PIL image, or an array uint8 ``[H, W, 3]``) to float32 ``[3, H, W]``; a
        list of N to ``[N, 3, H, W]``.

    Raises:
        PasslError: an image that cannot be read, or is none.
    """

    def __init__(self, section: Config):
        self._section = section
        self._transforms = plain(section.dataset.get("transforms")) or []

    def __call__(self, images: Union[AnImage, Sequence[AnImage]]) -> paddle.Tensor:
        several = isinstance(images, (list, tuple))
        dataset = GivenImages(images if several else [images], self._transforms)
        pixels = [dataset[index]["image"] for index in range(len(dataset))]
        shapes = sorted({array.shape for array in pixels})
        if len(shapes) != 1:
            raise PasslError(
                f"the images of a batch have one size, not {shapes or 'none'}; prepare them one by "
                "one"
            )
        loader = Loader(dataset, [], self._section.batch_transforms)
        batch = loader.transform({"image": paddle.to_tensor(np.stack(pixels))})
        return batch["image"] if several else batch["image"][0]

    def __repr__(self) -> str:
        return f"View({words_of_view(self._section)})"


@dataclasses.dataclass
class TrainedNetwork:
    """A network with what is known of it.

    Attributes:
        network: images ``[N, 3, H, W]``, prepared by ``transforms``, to logits ``[N, K]``, in
            evaluation mode; without a head, to features. Of CLIP and of methods without labels,
            the architecture itself.
        class_names: of the K classes; None where it tells none apart.
        transforms: prepares images for it.
        config: of the run, or of the release.
        records: the metrics of the run, a dict for each line of ``metrics.jsonl``; none of a
            release.
        weights: the file that was loaded.
    """

    network: Architecture
    class_names: Optional[List[str]]
    transforms: View
    config: Config
    records: List[Dict[str, Any]]
    weights: str

    def __repr__(self) -> str:
        classes = "no classes" if self.class_names is None else f"{len(self.class_names)} classes"
        return f"TrainedNetwork({self.weights}, {classes}, {self.transforms!r})"


def load_run(
    folder: Union[str, os.PathLike], weights: Optional[str] = None, device: str = "auto"
) -> TrainedNetwork:
    """Returns the network of a run, with the best weights.

    Args:
        folder: of the run, as ``passl train`` and ``passl finetune`` write it.
        weights: another checkpoint; by default the best one, or the latest where none was chosen.
        device: ``cpu``, ``gpu``, or ``auto``; it becomes Paddle's current device.

    Raises:
        PasslError: no such run, or nothing saved yet.

    Example:
        >>> run = passl.load_run("output/mine")
        >>> logits = run.network(run.transforms(["cat.jpg"]))
        >>> run.class_names[int(logits.argmax())]
        'cat'
    """
    folder = Path(folder)
    config = folder / RUN_CONFIG
    if not config.is_file():
        raise PasslError(f"{folder}: is no folder of a run: it has no {RUN_CONFIG}")
    cfg = get_config(config)
    loaded = _loaded(cfg, weights or str(folder), device)
    loaded.records = list(read_metrics(folder / RECORDS))
    return loaded


def load_release(
    name: str, weights: Optional[Union[str, os.PathLike]] = None, device: str = "auto"
) -> TrainedNetwork:
    """Returns a released network.

    Args:
        name: of the release, as ``passl.list_models(pretrained=True)`` has it.
        weights: its file, where it is at hand; by default it is fetched.
        device: see ``load_run``.

    Raises:
        PasslError: no such release, or a file that does not fit.
    """
    release = get_release(name)
    cfg = get_config(release.config, release.overrides)
    return _loaded(cfg, name if weights is None else os.fspath(weights), device)


def transforms_of(name: str) -> View:
    """Returns how images are prepared for a release.

    Args:
        name: of the release, as ``passl.list_models(pretrained=True)`` has it.

    Raises:
        PasslError: there is no such release.

    Example:
        >>> images = passl.transforms_of("mlp_mixer_b16_224.goog_in1k")(["cat.jpg", "dog.jpg"])
        >>> images.shape
        [2, 3, 224, 224]
    """
    preprocessing = get_release(name).preprocessing
    dataset = {"transforms": preprocessing.transforms()}
    return View(Config({"dataset": dataset, "batch_transforms": preprocessing.batch_transforms()}))


class Predictor:
    """Says what is in images.

    Args:
        source: the folder of a run, the name of a release, or what ``load_run`` and
            ``load_release`` return.
        topk: how many classes of each image.
        labels: with CLIP, what to tell apart.
        template: with CLIP, the sentence that the labels are put into, or several.
        batch_size: images at a time.
        device: see ``load_run``.

    Raises:
        PasslError: a source that cannot be loaded, or that tells no classes apart.

    Example:
        >>> predict = passl.Predictor("output/mine")
        >>> predict("cat.jpg").names[0]
        'cat'
        >>> [answer.probabilities[0] for answer in predict(["cat.jpg", an_array, a_pil_image])]
        [0.98, 0.71, 0.88]
    """

    def __init__(
        self,
        source: Union[str, os.PathLike, TrainedNetwork],
        topk: int = 5,
        labels: Optional[Sequence[str]] = None,
        template: Union[str, Sequence[str]] = OF_LABELS,
        batch_size: int = 32,
        device: str = "auto",
    ):
        if topk < 1 or batch_size < 1:
            raise PasslError("topk and batch_size are at least 1")
        loaded = source if isinstance(source, TrainedNetwork) else _open(source, device)
        self.topk, self.batch_size = topk, batch_size
        self.class_names, self.transforms = loaded.class_names, loaded.transforms
        network = loaded.network
        if hasattr(network, "as_network"):
            if not labels:
                raise PasslError(
                    f"{type(network).__name__} tells apart what it is told to: labels=['a cat', "
                    "'a dog']"
                )
            sentences = [template] if isinstance(template, str) else template
            classifier = zero_shot_classifier(network, labels, read_templates(sentences))
            network, self.class_names = network.as_network(classifier), list(labels)
        elif labels:
            raise PasslError("labels are for networks that compare images with texts, like CLIP")
        if not self.class_names:
            raise PasslError(f"{loaded.weights}: tells no classes apart: there is nothing to name")
        self._answering = _Answering(network)

    def __call__(
        self, images: Union[AnImage, Sequence[AnImage]]
    ) -> Union[Prediction, List[Prediction]]:
        """Returns the most probable classes of an image, or of each of a list.

        Args:
            images: a path, a PIL image or an array uint8 ``[H, W, 3]``; or a list of such.

        Raises:
            PasslError: an image that cannot be read, or is none.
        """
        several = isinstance(images, (list, tuple))
        given = list(images) if several else [images]
        if not given:
            return []
        section = self.transforms._section
        dataset = GivenImages(given, self.transforms._transforms)
        batches = EvaluationBatches(len(dataset), self.batch_size)
        loader = Loader(dataset, batches, section.batch_transforms)
        answers = list(predict(self._answering, loader, self.class_names, self.topk))
        return answers if several else answers[0]


class _Answering:
    """A network called as evaluators and ``predict`` call an architecture."""

    def __init__(self, network: Network):
        self._network = network

    def eval(self) -> None:
        self._network.eval()

    def __call__(self, batch: Dict[str, paddle.Tensor]) -> Dict[str, paddle.Tensor]:
        return {"logits": self._network(batch["image"])}


def _open(source: Union[str, os.PathLike], device: str) -> TrainedNetwork:
    if Path(source).is_dir():
        return load_run(source, device=device)
    if str(source) in releases():
        return load_release(str(source), device=device)
    raise PasslError(
        f"{source}: is neither the folder of a run nor a release; "
        "passl.list_models(pretrained=True) lists these"
    )


def _loaded(cfg: Config, weights: str, device: str) -> TrainedNetwork:
    select_device(device, cfg.tf32)
    if cfg.model.get("head") is None:
        network: Architecture = build_architecture(cfg.model)
    else:
        network = Network(cfg.model["architecture"], cfg.model["head"])
    report = load_weights(network, weight_file(weights))
    network.eval()
    names = None
    if isinstance(network, Network):
        names = readable_names(network.num_classes, report.class_names, report.of_imagenet)
    return TrainedNetwork(network, names, View(evaluation_view(cfg)), cfg, [], report.path)
