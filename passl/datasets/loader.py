"""Batches from a dataset, decoded by worker processes (Paddle's DataLoader)."""

from __future__ import annotations

import functools
import gc
import itertools
import traceback
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset

from passl.datasets.dataset import ImageDataset, SampleKey
from passl.datasets.decoding import UnreadableImage
from passl.datasets.handover import Handover
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.watch import Watch
from passl.utils.config import origin_of
from passl.utils.errors import PasslError
from passl.utils.logging import logger

# Fields of a batch by which workers tell the main process what went wrong: text passes through
# Paddle's hand-over unchanged. A batch without any array would count as the end of the data.
_UNREADABLE, _ERROR, _NOTHING = "__unreadable__", "__error__", "__nothing__"
_NOTE = "__note__"  # where the arrays of the batch are, see Handover

# How long the end of an iteration waits for each worker to leave.
_JOIN_SECONDS = 5.0


class Loader:
    """Iterates over the batches of a dataset, ready for the network.

    Args:
        dataset: where samples come from.
        batches: lists of SampleKeys (TrainingBatches or EvaluationBatches).
        batch_transforms: configs of the transforms applied to a whole batch on the device.
        num_workers: processes that read; 0 reads in this process.
        use_shared_memory: hand batches over through shared memory (not that of /dev/shm), see
            ``Handover``; otherwise through pipes.
        max_unreadable: how many different unreadable images are passed over before it is an
            error; 0, for evaluation, makes the first one an error.
        timeout: seconds without a batch after which it is an error; a tenth of it brings a warning
            that says what the workers are at. Without workers nobody watches.
        batch_rng: gives the generator that batch transforms draw from, by the place of a batch in
            ``batches``; None, for evaluation, where nothing may be drawn.

    Yields:
        dicts of Paddle tensors, the first axis counting samples. A batch from which unreadable
        images were left out is shorter.

    Raises:
        PasslError: too many unreadable images, or a worker that died; at construction, a batch
            transform that draws something without ``batch_rng``.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batches: Iterable[List[SampleKey]],
        batch_transforms: Sequence[Mapping[str, Any]] = (),
        num_workers: int = 0,
        use_shared_memory: bool = True,
        max_unreadable: int = 0,
        timeout: int = 600,
        batch_rng: Optional[Callable[[int], np.random.Generator]] = None,
    ):
        self.dataset = dataset
        self.batches = batches
        self.batch_transforms = [BATCH_TRANSFORMS.build(cfg) for cfg in batch_transforms]
        self.batch_rng = batch_rng
        for cfg, transform in zip(batch_transforms, self.batch_transforms):
            if getattr(transform, "random", False) and batch_rng is None:
                raise PasslError(
                    f"{cfg['name']} is for training; leave it out of the batch_transforms of an "
                    "evaluation",
                    place=origin_of(cfg),
                )
        self.num_workers = num_workers
        self.use_shared_memory = use_shared_memory
        self.max_unreadable = max_unreadable
        self.timeout = timeout
        self._unreadable: Set[str] = set()
        self._last_unreadable = ""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        watch = Watch(self.dataset, self.num_workers, self.timeout)
        handover = self._handover()
        loader = DataLoader(
            _Reader(self.dataset, watch),
            batch_sampler=self.batches,
            collate_fn=functools.partial(collate, handover=handover, watch=watch),
            num_workers=self.num_workers,
            use_shared_memory=False,
            worker_init_fn=watch.prepare_worker,
        )
        iterator = _start(loader)
        watch.start(getattr(iterator, "_workers", []))
        try:
            for position in itertools.count():
                batch = self._next(iterator, watch, handover)
                if batch is None:
                    return
                yield self.transform(batch, position)
        finally:
            watch.stop()
            # At once: a stream of training batches is rarely read to its very end, and Python
            # waits for left-over workers before it exits.
            iterator._try_shutdown_all(*([_JOIN_SECONDS] if self.num_workers else []))

    def transform(self, batch: Dict[str, Any], position: int = 0) -> Dict[str, Any]:
        """Applies the batch transforms to the batch at ``position``, tensors on the device."""
        rng = None if self.batch_rng is None else self.batch_rng(position)
        for transform in self.batch_transforms:
            batch = transform(batch, rng)
        return batch

    def _handover(self) -> Optional[Handover]:
        """Returns shared memory for the workers' batches, where their size is known beforehand."""
        sizes = [t.size for t in self.dataset.transforms if hasattr(t, "size")]
        batch = len(next(iter(self.batches), ()))
        if not (self.num_workers and self.use_shared_memory and sizes and batch):
            return None
        height, width = sizes[-1]
        # Beside an image there are small fields, a label at least.
        return Handover(self.num_workers, batch * (height * width * 3 + 1024))

    def _next(
        self, iterator: Any, watch: Watch, handover: Optional[Handover]
    ) -> Optional[Dict[str, Any]]:
        """Returns the next batch that has images, or None after the last."""
        try:
            with watch.waiting():
                batch = next(iterator)
        except StopIteration:
            return None
        except (RuntimeError, SystemError) as error:
            raise (watch.verdict or dead_worker(error)) from error
        if _ERROR in batch:
            raise PasslError(batch[_ERROR])
        self._note_unreadable(batch.pop(_UNREADABLE, ""))
        batch.pop(_NOTHING, None)
        if handover is not None and _NOTE in batch:
            arrays = handover.take(batch.pop(_NOTE))
            batch = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        if not batch:
            raise PasslError(
                "not one image of a batch could be read; is the data folder still there?"
                + (f" The last: {self._last_unreadable}" if self._last_unreadable else "")
            )
        return batch

    def _note_unreadable(self, messages: str) -> None:
        for message in filter(None, messages.split("\n")):
            if message in self._unreadable:
                continue
            self._unreadable.add(message)
            self._last_unreadable = message
            if not self.max_unreadable:
                raise UnreadableImage(message)
            if len(self._unreadable) > self.max_unreadable:
                raise UnreadableImage(
                    f"more than {self.max_unreadable} unreadable images (loader.max_unreadable); "
                    f"the last: {message}"
                )
            logger.warning("skipped an image: %s", message)


def dead_worker(error: BaseException) -> PasslError:
    """Returns what to tell the user when Paddle reports that a worker process died."""
    text = str(error).strip()
    if "bus error" in text.lower():  # a page of shared memory that the machine could not give
        return PasslError(
            "a data worker ran out of memory for its batches; lower loader.num_workers or the "
            "batch size, or set loader.use_shared_memory=false, then --resume auto"
        )
    return PasslError(
        "a data worker died (killed, or out of memory?): "
        f"{text.splitlines()[-1] if text else type(error).__name__}; "
        "lower loader.num_workers or the batch size, then --resume auto"
    )


class _Reader(Dataset):
    """Returns what went wrong with a sample instead of raising it inside a worker."""

    def __init__(self, dataset: ImageDataset, watch: Watch):
        self.dataset, self.watch = dataset, watch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Any:
        try:
            with self.watch.working_on(key.index):
                return self.dataset[key]
        except PasslError as error:
            return error
        except Exception:  # a mistake of ours, or of a user's own transform: in full
            return PasslError(
                f"{self.dataset.where(key.index)}: reading this sample failed:\n"
                f"{traceback.format_exc().rstrip()}"
            )


def collate(
    samples: List[Any], handover: Optional[Handover] = None, watch: Optional[Watch] = None
) -> Dict[str, Any]:
    """Stacks samples field by field; sets the fields that report trouble.

    Args:
        samples: dicts, and the errors of what could not be read.
        handover: where a worker stacks them, if they fit.
        watch: knows which worker this is.
    """
    batch: Dict[str, Any] = {}
    good = [sample for sample in samples if isinstance(sample, dict)]
    bad = [sample for sample in samples if not isinstance(sample, dict)]
    for error in bad:
        if not isinstance(error, UnreadableImage):
            return _failure(str(error))
    if bad:
        batch[_UNREADABLE] = "\n".join(str(error).replace("\n", " ") for error in bad)
        batch[_NOTHING] = np.zeros(1, np.uint8)
    if good:
        shapes = sorted({np.shape(sample["image"]) for sample in good})
        if len(shapes) > 1:
            return _failure(
                f"images of one batch differ in shape ({', '.join(map(str, shapes))}); "
                "add a transform that gives all of them one size, such as ResizeCenterCrop"
            )
        note = handover.put(watch.worker, good) if handover is not None else None
        if note is not None:
            return {**batch, _NOTE: note, _NOTHING: np.zeros(1, np.uint8)}
        for field in good[0]:
            batch[field] = np.stack([np.asarray(sample[field]) for sample in good])
    return batch


def _failure(message: str) -> Dict[str, Any]:
    return {_ERROR: message, _NOTHING: np.zeros(1, np.uint8)}


def _start(loader: DataLoader) -> Any:
    """Returns an iterator over ``loader``, whose workers are forked with collection turned off.

    A worker inherits the readers of earlier iterations that Python has not collected yet. Should
    it collect one, Paddle's destructor waits for threads that only the main process has: for ever.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return iter(loader)
    finally:
        if collecting:
            gc.enable()
