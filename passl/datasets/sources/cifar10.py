"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009)."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from passl.datasets.dataset import ImageDataset, subset_indices
from passl.datasets.images.rgb_image import RgbImage
from passl.datasets.registry import DATASETS
from passl.utils.errors import PasslError
from passl.utils.pickles import Unpickler
from passl.utils.stored_array import Window
from passl.utils.system_errors import explain_os_error

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes
_PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


@DATASETS.register
class CIFAR10(ImageDataset):
    """50,000 training and 10,000 test images of 32×32 pixels in ten classes.

    Args:
        dataroot: a folder that holds, as downloaded from the authors, ``cifar-10-python.tar.gz``
            or ``cifar-10-binary.tar.gz``, or what one of them unpacks to.
        split: ``train`` or ``test``.
        subset: part of the split: ``[:90%]`` or ``[90%:]``, with the share of every
            class kept; see ``subset_indices``.
        transforms: configs of the sample transforms.
    """

    published_sizes = {"train": 50_000, "test": 10_000}
    published_pixels = (32, 32)  # height and width, which its configs leave as they are

    def __init__(
        self,
        dataroot: str,
        split: str = "train",
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        if split not in _PARTS:
            raise PasslError(f"CIFAR-10 has the splits train and test, not '{split}'")
        images, labels = _load(Path(dataroot), split)
        chosen = subset_indices(labels, subset)
        super().__init__(labels[chosen], CLASS_NAMES, transforms)
        self.images = images[chosen]
        self.name = f"{dataroot} ({split})"

    def read(self, index: int) -> RgbImage:
        return RgbImage(self.images[index])

    def where(self, index: int) -> str:
        return f"{self.name}, image {index}"


def _load(root: Path, split: str) -> Tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 ``[n, 32, 32, 3]``, and labels, int64 ``[n]``."""
    binary = [part + ".bin" for part in _PARTS[split]]
    for folder in (root / "cifar-10-batches-bin", root):
        if (folder / binary[0]).is_file():
            return _stack(binary, {name: _read(folder / name) for name in binary})
    for folder in (root / "cifar-10-batches-py", root):
        if (folder / _PARTS[split][0]).is_file():
            files = {name: _read(folder / name) for name in _PARTS[split]}
            return _stack(_PARTS[split], files)
    for archive, names in (
        (root / "cifar-10-binary.tar.gz", binary),
        (root / "cifar-10-python.tar.gz", _PARTS[split]),
    ):
        if archive.is_file():
            return _stack(names, _read_archive(archive, names))
    raise PasslError(
        f"{root}: holds no CIFAR-10; put cifar-10-python.tar.gz there (from "
        "https://www.cs.toronto.edu/~kriz/cifar.html; a checkout has scripts/fetch_cifar10.sh)"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise explain_os_error(error, path, "read") from None


def _read_archive(archive: Path, names: Sequence[str]) -> Dict[str, bytes]:
    found: Dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                file = tar.extractfile(member) if name in names else None
                if file is not None:
                    found[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not gzip's
            raise explain_os_error(error, archive, "read") from None
        raise PasslError(f"{archive}: is not a whole archive ({error}); fetch it again") from None
    missing = sorted(set(names) - set(found))
    if missing:
        raise PasslError(f"{archive}: lacks {missing[0]}; fetch it again")
    return found


def _stack(names: Sequence[str], files: Mapping[str, bytes]) -> Tuple[np.ndarray, np.ndarray]:
    images: List[np.ndarray] = []
    labels: List[np.ndarray] = []
    for name in names:
        data = files[name]
        if name.endswith(".bin"):
            if not data or len(data) % _RECORD:
                raise PasslError(f"{name}: {len(data)} bytes are not whole CIFAR-10 records")
            records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
            pixels, label = records[:, 1:], records[:, 0]
        else:
            pixels, label = _unpickle(name, data)
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(label, dtype=np.int64))
    every = np.concatenate(labels)
    if every.min() < 0 or every.max() > 9:
        raise PasslError(f"{names[0]}: labels lie outside 0 to 9; this is not CIFAR-10")
    return np.ascontiguousarray(np.concatenate(images)), every


def _unpickle(name: str, data: bytes) -> Tuple[np.ndarray, Sequence[int]]:
    try:
        batch = Unpickler(Window(io.BytesIO(data), 0, len(data))).load()
        # Pickled again by Python 3, the keys are bytes.
        batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        pixels, labels = batch["data"].stored.read(), batch["labels"]
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _RECORD - 1):
            raise ValueError(f"data of shape {pixels.shape} for {len(labels)} labels")
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise PasslError(f"{name}: is not a CIFAR-10 batch ({error})") from None
    return pixels, labels
