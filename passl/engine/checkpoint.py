"""Checkpoints: one file holds the whole training state, and appears whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from passl.datasets import ImageDataset
from passl.hooks.base import Progress
from passl.modeling.architectures import Architecture
from passl.solver import Optimizer, WeightAverage
from passl.utils.arrays import own_array
from passl.utils.config import Config, plain, with_defaults
from passl.utils.errors import PasslError, first_of
from passl.utils.logging import logger
from passl.utils.system_errors import explain_os_error
from passl.utils.widened import widened
from passl.weights import AVERAGE, MODEL, WeightFile, load_weights, write_tensor_file

_OPTIMIZER = "optimizer"
_PARTIAL = ".partial-"
_SHOWN = 10  # class names in a message

# Parts of a config that a resumed run may change, because they do not change what is learned.
# A trailing dot stands for everything below; a list differs as a whole where its length does.
_FREE = (
    "output_dir",
    "device",
    "log_config.",
    "checkpoint.",
    "evaluate.interval_epochs",
    "hooks",
    "hooks.",
    "imports",
    "imports.",
    "parallel.fusion_mb",
    "parallel.sharding",
    "parallel.lost_after",
    "tf32",
    "deterministic",  # a way to compute the same
    "recompute",
    "max_bad_steps",
    "model.head.in_channels",  # there is one right number, with or without being said
    # What an optimizer step is made of is compared as a whole, see progress_in_steps_of.
    "global_batch_size",
    "dataloader.train.sampler.batch_size",
    "dataloader.val.",
    "dataloader.test.",
    "dataloader.bank.",
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
    model = {name: own_array(widened(tensor)) for name, tensor in network.items()}
    tensors = {f"{MODEL}/{name}": array for name, array in model.items()}
    tensors.update({f"{_OPTIMIZER}/{name}": a for name, a in optimizer.state_dict().items()})
    if average is not None:  # a whole network: what is not averaged is as it is
        model.update({name: own_array(tensor) for name, tensor in average.tensors().items()})
        tensors.update({f"{AVERAGE}/{name}": array for name, array in model.items()})
    return tensors


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
        raise explain_os_error(error, folder) from None
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
        raise explain_os_error(error, folder) from None
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
        remedy = "name another checkpoint with --resume PATH"
        try:
            file = WeightFile(path, remedy=remedy)
        except PasslError as error:
            raise PasslError(f"cannot resume: {error}") from None
        if file.metadata.get("kind") != "training":
            raise PasslError(
                f"{path}: holds weights but no training state; start from it with --pretrained"
            )
        try:
            progress = Progress(**file.metadata["progress"])
            file.metadata["config"]["epochs"], file.metadata["samples"]
            file.metadata["global_batch"]
        except (KeyError, TypeError):
            raise PasslError(
                f"cannot resume: {path}: its record of the run is incomplete; {remedy}"
            ) from None
        file.close()
        return cls(path, WeightFile(path, MODEL, remedy), progress)

    @property
    def epochs(self) -> int:
        """How many the run was to have."""
        return self.file.metadata["config"]["epochs"]

    @property
    def schedule_epochs(self) -> int:
        """Over how many of them the learning rate's schedule goes."""
        return self.file.metadata.get("schedule_epochs", self.epochs)

    @property
    def _training_set(self) -> Dict[str, Any]:
        """What is recorded of the training set; nothing by earlier versions."""
        return self.file.metadata.get("training_set") or {}

    def check_config(self, cfg: Config, extend: Optional[str] = None) -> None:
        """Raises PasslError if the config is not that of the checkpoint's run.

        Args:
            cfg: the config of the run that resumes.
            extend: not None allows it more epochs than the run had.
        """
        for key, then, now in _differences(with_defaults(self.file.metadata["config"]), plain(cfg)):
            if any(key == free or (free[-1] == "." and key.startswith(free)) for free in _FREE):
                continue
            longer = key == "epochs" and now > then
            if longer and extend is not None:
                continue
            switch = "--extend stretch or --extend hold makes the run longer; or " if longer else ""
            raise PasslError(
                f"{self.path}: was trained with {key} = {then!r}, the config now says {now!r}; "
                f"{switch}restore it to resume, or begin a new run in another --output-dir with "
                f"--pretrained {self.path}"
            )

    def check_data(self, dataset: ImageDataset, allow_change: bool = False) -> None:
        """Raises PasslError if the training set is not that of the checkpoint's run.

        Args:
            dataset: what is to be trained on.
            allow_change: whether files and labels may be others, as many and of the same classes.
        """
        facts = self.file.metadata
        names = facts.get("class_names")
        begin = f"begin a new run in another --output-dir with --pretrained {self.path}"
        if names is not None and dataset.class_names not in (None, names):
            raise PasslError(
                f"{self.path}: was trained on the classes {first_of(names, _SHOWN)}; the training "
                f"set now has {first_of(dataset.class_names, _SHOWN)}; restore the data to resume, "
                f"or {begin}"
            )
        moved = self._moved_classes(dataset)
        if facts["samples"] != len(dataset):
            raise PasslError(
                f"{self.path}: was trained on {facts['samples']} images but the training set now "
                f"has {len(dataset)}{moved}; restore the data to resume, or {begin}"
            )
        then = self._training_set.get("sha256")
        if then is None:
            logger.info(
                "%s: an earlier version of PASSL has written it without a record of files and "
                "labels: whether they are the same could not be compared", self.path,
            )  # fmt: skip
        elif then != dataset.digest():
            what = f"other files or labels than the run was trained on, or in another order{moved}"
            if not allow_change:
                raise PasslError(
                    f"{self.path}: the training set has as many images as before, but {what}; "
                    f"restore the data to resume, allow it with --allow-data-change, or {begin}"
                )
            logger.warning("%s: going on with %s", self.path, what)

    def _moved_classes(self, dataset: ImageDataset) -> str:
        """Returns which classes have another number of images now, as far as that is known."""
        then, now = self._training_set.get("class_counts"), dataset.class_counts()
        if not then or not now:
            return ""
        count = max(len(then), len(now))
        then, now = (list(c) + [0] * (count - len(c)) for c in (then, now))
        changed = [i for i in range(count) if then[i] != now[i]]
        names = dataset.class_names or [f"class {i}" for i in range(count)]
        told = first_of([f"{names[i]} {then[i]} → {now[i]}" for i in changed], 3)
        return f" ({told})" if changed else ""

    def progress_in_steps_of(self, global_batch: int, allow_change: bool = False) -> Progress:
        """Returns how far the run is, in steps of so many images.

        Where a step had another number of images, and that may change, the run goes on that many
        images further into the epoch: the images of a batch that was begun are passed over.

        Args:
            global_batch: images an optimizer step.
            allow_change: whether it may differ.

        Raises:
            PasslError: it differs and may not.
        """
        before, samples = self.file.metadata["global_batch"], self.file.metadata["samples"]
        if before == global_batch:
            return self.progress
        if not allow_change:
            raise PasslError(
                f"{self.path}: was trained with {before} images a step, now it would be "
                f"{global_batch} (batch_size × processes × accumulation); set "
                f"global_batch_size={before}, or --allow-batch-change"
            )
        epoch, step = divmod(self.progress.step, samples // before)
        step = epoch * (samples // global_batch) + min(
            -(-step * before // global_batch), samples // global_batch
        )
        return dataclasses.replace(self.progress, step=step, evaluated_step=-1)

    def restore(
        self,
        architecture: Architecture,
        optimizer: Optimizer,
        average: Optional[WeightAverage] = None,
    ) -> None:
        """Puts weights, optimizer state and averaged weights back, and closes the file.

        Open, a file that is replaced by a later save would keep its room on the disk.
        """
        report = load_weights(architecture, self.file)
        if report.kept:  # what is enough to evaluate is not enough to go on
            raise PasslError(
                f"{self.path}: is a checkpoint without {first_of(report.kept, _SHOWN)}, which the "
                "run needs to go on; begin a new one from it with --pretrained"
            )
        optimizer.load_state_dict(self.file.read_group(_OPTIMIZER))
        if average is not None:
            average.load_state_dict(self.file.read_group(AVERAGE))
        self.file.close()


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
