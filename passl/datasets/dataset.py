"""What every image dataset shares: keys, decoding, the transforms."""

from __future__ import annotations

import abc
import hashlib
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from paddle.io import Dataset

from passl.datasets.images.decoding import MAX_PIXELS
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import TRANSFORMS
from passl.utils.errors import PasslError, first_of
from passl.utils.seeding import sample_rng, split_order
from passl.utils.text import as_text

_MOST_CLASSES = 100_000  # that are counted: the counts stand in every checkpoint


class SampleKey(NamedTuple):
    """Names one drawing of one sample; its augmentation is a function of this alone.

    ``copy`` tells apart the draws of one image within an epoch (repeated augmentation, views).
    """

    index: int
    epoch: int = 0
    copy: int = 0
    seed: int = 0


def is_image(field: str) -> bool:
    """Tells whether a field of a sample or a batch holds images: ``image``, ``image_1``, …."""
    return re.fullmatch(r"image(_[1-9][0-9]*)?", field) is not None


def image_fields(fields: Iterable[str]) -> List[str]:
    """Returns the fields that hold images, in their order: the views of the images."""
    return [field for field in fields if is_image(field)]


class ImageDataset(Dataset, abc.ABC):
    """Base of all datasets of images.

    ``dataset[key]`` is a sample: ``image``, uint8 ``[H, W, 3]`` in RGB, and ``label``, an int,
    where the set has labels; ``key`` is a SampleKey, or an int for epoch 0.

    Args:
        labels: the class of every sample, int64 ``[len(dataset)]``; None where nothing says what
            the images show.
        class_names: the name of every class, where the data has names.
        transforms: configs of the sample transforms, applied in order.
        length: how many samples there are, where there are no labels to count.

    Attributes:
        labels, class_names: as given.
        transforms: the built transforms.
        max_pixels: the most pixels of an image that ``read`` decodes; None for any number.
    """

    max_pixels: Optional[int] = MAX_PIXELS

    def __init__(
        self,
        labels: Optional[np.ndarray],
        class_names: Optional[Sequence[str]],
        transforms: Sequence[Mapping[str, Any]],
        length: int = 0,
    ):
        super().__init__()
        self.labels = labels
        self._length = length if labels is None else len(labels)
        self.class_names: Optional[List[str]] = None
        if class_names is not None:  # folders are called anything; these go into files and pictures
            self.class_names = [as_text(name) for name in class_names]
        self.transforms = [TRANSFORMS.build(cfg) for cfg in transforms]

    @abc.abstractmethod
    def read(self, index: int) -> RgbImage:
        """Returns the image at ``index``.

        Raises:
            UnreadableImage: with the file's path.
            PasslError: the machine refuses to read it, which says nothing of the image.
        """

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """Returns what a message calls the sample at ``index``: a path, a line of a list."""

    def use_classes(self, class_names: Sequence[str]) -> None:
        """Numbers the classes as ``class_names`` does, those of the training set.

        A part of a set may lack some classes; by itself it would number the rest otherwise.

        Raises:
            PasslError: the set has a class that is not among them.
        """
        if self.class_names is None or self.class_names == list(class_names):
            return
        unknown = sorted(set(self.class_names) - set(class_names))
        if unknown:
            raise PasslError(
                f"{self.where(0)}: this set has the class {first_of(unknown, 3)}, which "
                f"the {len(class_names)} classes of the training set lack"
            )
        number = {name: i for i, name in enumerate(class_names)}
        self.labels = np.array([number[name] for name in self.class_names])[self.labels]
        self.class_names = list(class_names)

    def class_counts(self) -> List[int]:
        """Returns how many samples each label has, from label 0 to the highest.

        Nothing where there are no labels, or labels that do not number classes.
        """
        if self.labels is None or np.min(self.labels) < 0 or np.max(self.labels) >= _MOST_CLASSES:
            return []
        return np.bincount(self.labels).tolist()

    def digest(self) -> str:
        """Returns the SHA-256 of the names and labels, if any, of the samples, in their order.

        Of no pixels: that would take a look at every file.
        """
        digest = hashlib.sha256()
        for array in (*self._identity(), *([] if self.labels is None else [self.labels])):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def _identity(self) -> Sequence[np.ndarray]:
        """Returns arrays that tell the samples from others; none where only labels do."""
        return ()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Union[int, SampleKey]) -> Dict[str, Any]:
        if not isinstance(key, SampleKey):
            key = SampleKey(range(len(self))[key])
        sample = self.untransformed(key.index, self.read(key.index))
        return self.transform(sample, sample_rng(key.seed, key.epoch, key.index, key.copy))

    def untransformed(self, index: int, image: RgbImage) -> Dict[str, Any]:
        """Returns the fields of the sample at ``index``, of which ``image`` is the image."""
        if self.labels is None:
            return {"image": image}
        return {"image": image, "label": int(self.labels[index])}

    def transform(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        """Applies the transforms to a sample; its images become arrays, other fields stay."""
        for transform in self.transforms:
            sample = transform(sample, rng)
        return {**sample, **{name: np.asarray(sample[name]) for name in image_fields(sample)}}


class Captioned:
    """What sets have whose images have captions, beside what all sets of images have.

    ``dataset[key]`` has what ``Tokenize`` makes of the captions. Without that transform they are
    left out of the sample: evaluators read them by ``captions``.
    """

    def captions(self, index: int) -> List[str]:
        """Returns the captions of the image at ``index``, at least one."""
        raise NotImplementedError

    def untransformed(self, index: int, image: RgbImage) -> Dict[str, Any]:
        return {**super().untransformed(index, image), "captions": self.captions(index)}

    def transform(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        sample = super().transform(sample, rng)
        sample.pop("captions", None)
        return sample


def subset_bounds(subset: str) -> Tuple[float, float]:
    """Returns the bounds that a subset names, in [0, 1].

    Raises:
        PasslError: it has another form than ``"[A%:B%]"``.
    """
    match = re.fullmatch(r"\[(?:(\d+(?:\.\d+)?)%)?:(?:(\d+(?:\.\d+)?)%)?\]", subset.strip())
    low, high = (match.group(1) or 0, match.group(2) or 100) if match else (100, 0)
    low, high = float(low) / 100, float(high) / 100
    if not 0 <= low < high <= 1:
        raise PasslError(f"subset has the form '[:99%]' or '[99%:]', not '{subset}'")
    return low, high


def subset_indices(
    labels: Optional[np.ndarray], subset: Optional[str], length: int = 0
) -> np.ndarray:
    """Returns the indices of a part of a set, the same ones in every run.

    ``"[:90%]"`` and ``"[90%:]"`` cut the set into two parts that do not overlap. The cut is
    stratified: each class is shuffled in a fixed order and cut at the same share, so that every
    class with enough images is in both parts. A set without labels is cut as one class is.

    Args:
        labels: int64 ``[n]``, or None.
        subset: ``"[A%:B%]"`` with either bound optional, or None for everything.
        length: n, where there are no labels.

    Returns:
        int64, increasing.
    """
    if labels is None:
        labels = np.zeros(length, np.int64)
    if subset is None:
        return np.arange(len(labels))
    low, high = subset_bounds(subset)
    # The place of each sample within its class, in (0, 1), after a fixed shuffle.
    shuffled = split_order(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    first = np.repeat(np.cumsum(counts) - counts, counts)
    place = (np.arange(len(labels)) - first + 0.5) / np.repeat(counts, counts)
    chosen = np.sort(by_class[(low <= place) & (place < high)])
    if not len(chosen):
        raise PasslError(f"the subset '{subset}' of {len(labels)} images holds none")
    return chosen
