"""Checkpoints: one file holds the whole training state, and appears whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np
import paddle

from passl.hooks.base import Progress
from passl.modeling.architectures import Architecture
from passl.solver import Optimizer, WeightAverage
from passl.utils.config import plain, with_defaults
from passl.utils.errors import PasslError
from passl.weights import AVERAGE, MODEL, WeightFile, load_weights, write_tensor_file

_OPTIMIZER = "optimizer"
_PARTIAL = ".partial-"

# Parts of a config that a resumed run may change, because they do not change what is learned.
# A trailing dot stands for everything below.
_FREE = (
    "output_dir",
    "device",
    "log_config.",
    "checkpoint.",
    "evaluate.",
    "hooks",
    "parallel.",
    "tf32",
    "recompute",
    "to_static",
    "max_bad_steps",
    # What an optimizer step is made of is compared as a whole, see Checkpoint.check.
    "global_batch_size",
    "dataloader.train.sampler.batch_size",
    "dataloader.val.",
    "dataloader.test.",
    "dataloader.train.loader.",
    "dataloader.train.dataset.dataroot",
    "dataloader.train.dataset.list_file",
    "dataloader.train.dataset.class_names",
)


def training_state(
    architecture: Architecture, optimizer: Optimizer, average: Optional[WeightAverage]
) -> Dict[str, np.ndarray]:
    """Returns copies of all tensors of a checkpoint, in its groups, as WeightFile reads them back.

    Weights are float32 also where the network holds 16 bits of them.
    """
    network = {**architecture.state_dict(), **optimizer.weights()}
    model = {name: _wide(tensor) for name, tensor in network.items()}
    tensors = {f"{MODEL}/{name}": array for name, array in model.items()}
    tensors.update({f"{_OPTIMIZER}/{name}": a for name, a in optimizer.state_dict().items()})
    if average is not None:  # a whole network: what is not averaged is as it is
        model.update({name: tensor.numpy() for name, tensor in average.tensors().items()})
        tensors.update({f"{AVERAGE}/{name}": array for name, array in model.items()})
    return tensors


def _wide(tensor: paddle.Tensor) -> np.ndarray:
    if tensor.dtype in (paddle.float16, paddle.bfloat16):
        tensor = tensor.astype("float32")
    return tensor.numpy()


def write_checkpoint(
    paths: List[Path], tensors: Mapping[str, np.ndarray], metadata: Dict[str, Any]
) -> None:
    """Writes a training state once and puts it, atomically, at every path in turn.

    The file is first written under another name and synced; a crash at any instant leaves each
    path with either its earlier content or the new one.

    Args:
        paths: where it shall stand, all in one folder; the last is the one to resume from.
        tensors: see ``training_state``.
        metadata: JSON-able facts to keep beside it (progress, config, class names, environment).

    Raises:
        PasslError: the disk is full, say; the earlier checkpoints are untouched.
    """
    folder = paths[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PasslError(f"{folder}: cannot be made ({error.strerror})") from None
    partial = folder / f"{_PARTIAL}{os.getpid()}.safetensors"
    write_tensor_file(partial, tensors, {"kind": "training", **metadata})
    try:
        for path in paths[:-1]:
            second = partial.with_suffix(".link")
            try:
                os.link(partial, second)  # costs no space
            except OSError:  # a file system without hard links
                shutil.copyfile(partial, second)
            os.replace(second, path)
        os.replace(partial, paths[-1])
        _sync_folder(folder)
    except OSError as error:
        raise PasslError(f"{folder}: could not be written ({error.strerror})") from None
    finally:
        remove_partial_files(folder)


def remove_partial_files(folder: Path) -> None:
    """Removes what an interrupted save left behind."""
    for path in folder.glob(_PARTIAL + "*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclasses.dataclass
class Checkpoint:
    """A checkpoint to resume from, read and compared with the config before it is used."""

    path: Path
    file: WeightFile
    progress: Progress

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Opens a checkpoint of training state.

        Raises:
            PasslError: it is missing or damaged, or holds no training state.
        """
        try:
            file = WeightFile(path)
        except PasslError as error:
            raise PasslError(
                f"cannot resume: {error}; name another checkpoint with --resume PATH"
            ) from None
        if file.metadata.get("kind") != "training":
            raise PasslError(
                f"{path}: holds weights but no training state; start from it with --pretrained"
            )
        try:
            progress = Progress(**file.metadata["progress"])
            file.metadata["config"], file.metadata["samples"], file.metadata["global_batch"]
        except (KeyError, TypeError):
            raise PasslError(
                f"cannot resume: {path}: its record of the run is incomplete; name another "
                "checkpoint with --resume PATH"
            ) from None
        return cls(path, WeightFile(path, MODEL), progress)

    def check(
        self, cfg: Dict[str, Any], samples: int, global_batch: int, allow_batch_change: bool = False
    ) -> None:
        """Raises PasslError if the config or the data is not that of the checkpoint's run.

        With another global batch, if that is allowed, the step becomes the one that many images
        further into the epoch: the images of a batch that was begun are passed over.

        Args:
            cfg: the config of the run that resumes.
            samples: images in its training set.
            global_batch: images an optimizer step.
            allow_batch_change: whether ``global_batch`` may differ.
        """
        for key, then, now in _differences(with_defaults(self.file.metadata["config"]), plain(cfg)):
            if not any(key == free or (free[-1] == "." and key.startswith(free)) for free in _FREE):
                raise PasslError(
                    f"{self.path}: was trained with {key} = {then!r}, the config now says {now!r}; "
                    "restore it to resume, or begin a new run in another --output-dir with "
                    f"--pretrained {self.path}"
                )
        if self.file.metadata["samples"] != samples:
            raise PasslError(
                f"{self.path}: was trained on {self.file.metadata['samples']} images but the "
                f"training set now has {samples}; restore the data to resume"
            )
        before = self.file.metadata["global_batch"]
        if before != global_batch:
            if not allow_batch_change:
                raise PasslError(
                    f"{self.path}: was trained with {before} images a step, now it would be "
                    f"{global_batch} (batch_size × processes × accumulation); set "
                    f"global_batch_size={before}, or --allow-batch-change"
                )
            epoch, step = divmod(self.progress.step, samples // before)
            self.progress.step = epoch * (samples // global_batch) + min(
                -(-step * before // global_batch), samples // global_batch
            )
            self.progress.evaluated_step = -1

    def restore(
        self,
        architecture: Architecture,
        optimizer: Optimizer,
        average: Optional[WeightAverage] = None,
    ) -> None:
        """Puts weights, optimizer state and averaged weights back."""
        load_weights(architecture, self.file)
        optimizer.load_state_dict(self.file.read_group(_OPTIMIZER))
        if average is not None:
            average.load_state_dict(self.file.read_group(AVERAGE))


def _differences(then: Any, now: Any, path: str = "") -> Iterator[Tuple[str, Any, Any]]:
    """Yields (key, old, new) for every leaf at which two plain configs differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys: List[Any] = list(then) + [key for key in now if key not in then]
        pairs = [(key, then.get(key), now.get(key)) for key in keys]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(then, now))]
    else:
        if then != now:
            yield path, then, now
        return
    for key, a, b in pairs:
        yield from _differences(a, b, f"{path}.{key}" if path else str(key))


def find_checkpoint(resume: Optional[str], latest: Path) -> Optional[Path]:
    """Returns the checkpoint that ``--resume`` means: a path, or for ``auto`` the latest."""
    if resume is None:
        return None
    if resume == "auto":
        return latest if latest.exists() else None
    return Path(resume)
