"""Pictures that are made up, for trying a config out and for benchmarks without its data."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
import simplejpeg
from PIL import Image

from passl.datasets.dataset import Captioned, ImageDataset, subset_bounds
from passl.datasets.images.decoding import decode_image
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import DATASETS
from passl.utils.config import Config, plain
from passl.utils.errors import PasslError

# Images of sets whose sizes are not known: ImageNet's, so that schedules fit, and a few.
_TRAINING, _EVALUATION = 1_281_167, 128
_CLASSES = 10  # where a config leaves their number to the data


@DATASETS.register
class Synthetic(ImageDataset):
    """JPEG pictures with a pattern of colours for each class, drawn when they are first read.

    They are decoded anew at each reading, as files are, so that a benchmark counts what decoding
    and transforming cost; only a disk has no part in it. A network can learn them: a loss that does
    not fall says that something is wrong.

    Args:
        num_classes: K; the labels go round from 0 to K - 1.
        length: images of the set.
        pictures: how many of them differ.
        height, width: of a picture, in pixels; those of the average image of ImageNet.
        split: sets of different names have other pictures of the same classes.
        transforms: configs of the sample transforms.
        labels: false leaves the labels out.

    Raises:
        PasslError: a number below 1.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        length: int = _TRAINING,
        pictures: int = 512,
        height: int = 375,
        width: int = 500,
        split: str = "train",
        transforms: Sequence[Mapping[str, Any]] = (),
        labels: bool = True,
    ):
        sizes = {
            "num_classes": num_classes, "length": length, "pictures": pictures, "height": height,
            "width": width,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise PasslError(f"{name} is at least 1, not {size}")
        shown = np.arange(length, dtype=np.int64) % pictures % num_classes
        super().__init__(shown if labels else None, None, transforms, length)
        self.num_classes = num_classes
        self.pictures, self.height, self.width = pictures, height, width
        self._split = list(split.encode())
        self._drawn: Dict[int, bytes] = {}

    def path(self, index: int) -> str:
        """Returns what a picture is called."""
        return f"synthetic picture {index % self.pictures}"

    where = path

    def read_bytes(self, index: int) -> bytes:
        """Returns the JPEG file of the picture at ``index``."""
        picture = index % self.pictures
        if picture not in self._drawn:
            self._drawn[picture] = self._draw(picture, picture % self.num_classes)
        return self._drawn[picture]

    def read(self, index: int) -> RgbImage:
        return decode_image(self.read_bytes(index), self.path(index), self.max_pixels)

    def _draw(self, picture: int, label: int) -> bytes:
        own = np.random.default_rng([1, picture, *self._split])
        coarse = np.random.default_rng([0, label]).uniform(0, 255, (6, 8, 3))
        coarse = 0.7 * coarse + 0.3 * own.uniform(0, 255, coarse.shape)
        smooth = Image.fromarray(coarse.astype(np.uint8)).resize(
            (self.width, self.height), Image.Resampling.BICUBIC
        )
        # So that the files are as large as those of photographs.
        grain = own.normal(0, 8, (self.height, self.width, 1))
        pixels = (np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)
        return simplejpeg.encode_jpeg(pixels, quality=90)


@DATASETS.register
class SyntheticPairs(Captioned, Synthetic):
    """The same pictures, with the name of their pattern as caption instead of a label.

    Args: as of ``Synthetic``, but for ``labels``.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        length: int = _TRAINING,
        pictures: int = 512,
        height: int = 375,
        width: int = 500,
        split: str = "train",
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        super().__init__(
            num_classes, length, pictures, height, width, split, transforms, labels=False
        )

    def captions(self, index: int) -> List[str]:
        return [f"a picture of pattern {index % self.pictures % self.num_classes}"]


def with_synthetic_data(cfg: Config, images: int = 0) -> Config:
    """Returns a config whose data sets are synthetic, of the same sizes and with its transforms.

    Args:
        cfg: the whole config.
        images: how many the data set has that training takes its images from, and the most that
            any other has; 0 takes what is published of them, or as many as ImageNet has.
    """
    values = plain(cfg)
    head = values["model"].get("head") or values["model"].get("probe") or {}
    train = values["dataloader"]["train"]
    source = None if train is None else _source(train["dataset"])
    changed: List[str] = []
    for split, section in values["dataloader"].items():
        if section is None:
            continue
        dataset = section["dataset"]
        published = DATASETS.attribute(dataset.get("name"), "published_sizes", {})
        trained_on = _source(dataset) == source
        length = published.get(dataset.get("split"), _TRAINING if trained_on else _EVALUATION)
        if images:
            length = images if trained_on else min(length, images)
        low, high = subset_bounds(dataset.get("subset") or "[:]")
        section["dataset"] = {
            "name": "Synthetic",
            "num_classes": head.get("num_classes", 1000) or _CLASSES,
            "length": max(1, round(length * high) - round(length * low)),
            "split": split,
            "transforms": dataset.get("transforms", []),
        }
        if not dataset.get("labels", True):
            section["dataset"]["labels"] = False
        if DATASETS.attribute(dataset.get("name"), "captions", None) is not None:
            section["dataset"]["name"] = "SyntheticPairs"
        pixels = DATASETS.attribute(dataset.get("name"), "published_pixels", None)
        if pixels is not None:
            section["dataset"].update(height=pixels[0], width=pixels[1])
        changed.append(f"dataloader.{split}.dataset.")
    origins = {
        key: place
        for key, place in cfg.origins.items()
        if not key.startswith(tuple(changed)) or ".transforms" in key
    }
    return Config(values, "", origins)


def _source(dataset: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns what two sections have in common that read parts of the same data."""
    return {key: dataset[key] for key in dataset if key not in ("subset", "transforms")}


__all__ = ["Synthetic", "with_synthetic_data"]
