"""Batches from a dataset, decoded by worker processes (Paddle's DataLoader)."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import re
import traceback
import warnings
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import paddle
from paddle.io import DataLoader, Dataset
from paddle.io.dataloader import dataloader_iter

from passl.datasets.dataset import ImageDataset, SampleKey, is_image
from passl.datasets.images.failures import UnreadableImage, starting_failed
from passl.datasets.loading.first_look import Field, learn_fields
from passl.datasets.loading.handover import Handover, bytes_of
from passl.datasets.loading.watch import Watch
from passl.datasets.registry import BATCH_TRANSFORMS
from passl.datasets.transforms.base import BatchTransform, stated
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError
from passl.utils.logging import logger

# Fields of a batch by which workers tell the main process what went wrong: text passes through
# Paddle's hand-over unchanged. A batch without any array would count as the end of the data.
_UNREADABLE, _ERROR, _NOTHING = "__unreadable__", "__error__", "__nothing__"
_NOTE = "__note__"  # where the arrays of the batch are, see Handover

_LOOKS = 4  # samples that are tried until one can be read, to learn what they consist of
# How long the end of an iteration waits for each worker to leave.
_JOIN_SECONDS = 5.0

# Said in our words by ``_say_no_workers``.
warnings.filterwarnings("ignore", message="DataLoader with multi-process mode is not supported")


class StandIn(Dict[str, Any]):
    """A batch in the place of one of which no image could be read: one black image, of class 0.

    It is to weigh nothing. It is there because every process must take part in every step.
    """


class Loader:
    """Iterates over the batches of a dataset, ready for the network.

    Args:
        dataset: where samples come from.
        batches: lists of SampleKeys (TrainingBatches or EvaluationBatches).
        batch_transforms: configs of the transforms applied to a whole batch on the device.
        num_workers: processes that read; 0 reads in this process, as it always does where Paddle
            has no workers (macOS).
        use_shared_memory: hand batches over through shared memory (not that of /dev/shm), see
            ``Handover``; otherwise through pipes.
        max_unreadable: how many different unreadable images are passed over before it is an
            error; 0, for evaluation, makes the first one an error.
        timeout: seconds without a batch after which it is an error; a tenth of it brings a warning
            that says what the workers are at. Without workers nobody watches.
        batch_rng: gives the generator that batch transforms draw from, by the place of a batch in
            ``batches``; None, for evaluation, where nothing may be drawn.
        stand_ins: for training, whose batches are counted: yield a ``StandIn`` for a batch of
            which no image could be read. Otherwise it is passed over.
        replace_unreadable: for training whose batches must be full: the next readable image of the
            dataset takes the place of an unreadable one, drawn with the same epoch, copy and seed.

    Attributes:
        unreadable: what was said of images that cannot be read, in the order in which they came.

    Yields:
        dicts of Paddle tensors, the first axis counting samples. A batch from which unreadable
        images were left out is shorter.

    Raises:
        PasslError: too many unreadable images, samples that do not fit into one batch, workers that
            cannot be started or have died; at construction, a batch transform that draws something
            without ``batch_rng``.
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
        stand_ins: bool = False,
        replace_unreadable: bool = False,
    ):
        self.dataset = dataset
        self.batches = batches
        self.batch_transforms = [BATCH_TRANSFORMS.build(cfg) for cfg in batch_transforms]
        self.batch_rng = batch_rng
        for cfg, transform in zip(batch_transforms, self.batch_transforms):
            if stated(transform, BatchTransform, "random") and batch_rng is None:
                raise PasslError(
                    f"{cfg['name']} is for training; leave it out of the batch_transforms of an "
                    "evaluation",
                    place=origin_of(cfg),
                )
        self.num_workers = num_workers
        self.use_shared_memory = use_shared_memory
        self.max_unreadable = max_unreadable
        self.timeout = timeout
        self.stand_ins = stand_ins
        # More unreadable images in a row than may be passed over in all end the run anyway.
        self._tries = max_unreadable + 1 if replace_unreadable else 1
        self.unreadable: Dict[str, None] = {}
        self._fields: Optional[List[Field]] = None
        self._blank: Dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        with contextlib.closing(self._collated()) as stream:
            for position, (batch, unreadable) in enumerate(stream):
                self._note_unreadable(unreadable, bool(batch))
                if batch:
                    yield self.transform(batch, position)
                elif self.stand_ins:
                    yield StandIn(self.transform(self._stand_in(), position))

    def _collated(self) -> Iterator[Tuple[Dict[str, Any], str]]:
        """Yields every batch as tensors, and what was said of unreadable images in it."""
        if self.num_workers:
            watch = Watch(self.dataset, self.num_workers, self.timeout)
            loader = DataLoader(
                _Reader(self.dataset, watch, self._tries),
                batch_sampler=self.batches,
                num_workers=self.num_workers,
                use_shared_memory=False,
                worker_init_fn=watch.prepare_worker,
            )
            if loader.num_workers:
                handover = self._handover()
                loader.collate_fn = functools.partial(collate, handover=handover, watch=watch)
                yield from self._from_workers(loader, watch, handover)
                return
            _say_no_workers()
        # Not by Paddle's DataLoader, whose thread waits for ever after an error, and with it the
        # main one, which then hears no signal.
        reader = _Reader(self.dataset, Watch(self.dataset, 0, self.timeout), self._tries)
        for keys in self.batches:
            yield _opened(collate([reader[key] for key in keys]), None)

    def _from_workers(
        self, loader: DataLoader, watch: Watch, handover: Optional[Handover]
    ) -> Iterator[Tuple[Dict[str, Any], str]]:
        iterator = _start(loader)
        try:
            try:
                watch.start(iterator._workers)
            except RuntimeError as error:
                raise starting_failed(error, self.num_workers) from None
            while True:
                try:
                    with watch.waiting():
                        batch = next(iterator)
                except StopIteration:
                    return
                except (RuntimeError, SystemError) as error:
                    raise (watch.verdict or dead_worker(error, watch.casualties())) from error
                yield _opened(batch, handover)
        finally:
            watch.stop()
            # At once: a stream of training batches is rarely read to its very end, and Python
            # waits for left-over workers before it exits.
            iterator._try_shutdown_all(_JOIN_SECONDS)

    def transform(self, batch: Dict[str, Any], position: int = 0) -> Dict[str, Any]:
        """Applies the batch transforms to the batch at ``position``, tensors on the device."""
        rng = None if self.batch_rng is None else self.batch_rng(position)
        for transform in self.batch_transforms:
            batch = transform(batch, rng)
        return batch

    def made_up_batch(
        self, sample: Mapping[str, Any], count: int, num_classes: int, rng: np.random.Generator
    ) -> Dict[str, Any]:
        """Returns a transformed batch of noise that has the fields of a sample.

        Args:
            sample: one of the dataset. Its images become noise of their shape and its label any
                class; other fields stay.
            count: samples.
            num_classes: classes, from 0 on.
            rng: of pixels and labels.

        Raises:
            PasslError: a field that cannot be a tensor, or a transform refuses the batch.
        """
        batch, _ = _opened(collate([dict(sample)] * count), None)
        for name in batch:
            if is_image(name):
                noise = rng.integers(0, 256, batch[name].shape, np.uint8)
                batch[name] = paddle.to_tensor(noise)
            elif name == "label":
                batch[name] = paddle.to_tensor(rng.integers(0, num_classes, count))
        return self.transform(batch)

    def _handover(self) -> Optional[Handover]:
        """Returns shared memory for the workers' batches, where one sample tells their size."""
        stream = iter(self.batches)
        if not self.use_shared_memory or stream is self.batches:  # a look would take some away
            return None
        first = next(stream, [])
        if self._fields is None:
            keys = itertools.chain(first, itertools.chain.from_iterable(stream))
            keys = list(itertools.islice(keys, _LOOKS))
            self._fields = learn_fields(self.dataset, keys, self.timeout / 10)
        if self._fields is None:
            return None
        slot = bytes_of((np.dtype(dtype), (len(first), *shape)) for _, dtype, shape in self._fields)
        try:
            return Handover(self.num_workers, slot)
        except OSError as error:
            raise PasslError(
                f"the memory that {self.num_workers} data workers share cannot be had "
                f"({error.strerror}); lower loader.num_workers or the batch size, or set "
                "loader.use_shared_memory=false"
            ) from error

    def _stand_in(self) -> Dict[str, Any]:
        """Returns a batch of one black image, with the fields of those that can be read."""
        if not self._blank:
            for index in range(len(self.dataset)):
                try:
                    sample = self.dataset[index]
                except UnreadableImage as error:
                    if index < min(self.max_unreadable, len(self.dataset) - 1):
                        continue
                    raise PasslError(
                        f"not one of the first {index + 1} images can be read; is the data folder "
                        f"still there? The last: {error}"
                    ) from None
                self._blank = {
                    field: np.zeros_like(np.asarray(value))[None] for field, value in sample.items()
                }
                break
        return {field: paddle.to_tensor(array) for field, array in self._blank.items()}

    def _note_unreadable(self, messages: str, others: bool) -> None:
        """Reports unreadable images; ``others`` says whether their batch had readable ones."""
        for message in filter(None, messages.split("\n")):
            if message in self.unreadable:
                continue
            self.unreadable[message] = None
            if not self.max_unreadable:
                raise UnreadableImage(message)
            if len(self.unreadable) > self.max_unreadable:
                raise UnreadableImage(
                    f"more than {self.max_unreadable} unreadable images (loader.max_unreadable)"
                    f"{'' if others else '; is the data folder still there?'}; the last: {message}"
                )
            logger.warning("skipped an image: %s", message)


def _opened(batch: Dict[str, Any], handover: Optional[Handover]) -> Tuple[Dict[str, Any], str]:
    """Takes what ``collate`` has made apart: the batch as tensors, and of unreadable images.

    Raises:
        PasslError: it could not make a batch.
    """
    if _ERROR in batch:
        raise PasslError(batch[_ERROR])
    unreadable = batch.pop(_UNREADABLE, "")
    batch.pop(_NOTHING, None)
    if handover is not None and _NOTE in batch:
        batch = handover.take(batch[_NOTE])
    tensors = {
        name: value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value)
        for name, value in batch.items()
    }
    return tensors, unreadable


@functools.cache
def _say_no_workers() -> None:
    logger.warning("Paddle has no data workers on this system: images are read in one process")


def section_loader(
    section: Config, dataset: ImageDataset, batches: Iterable[List[SampleKey]], **others: Any
) -> Loader:
    """Returns a loader whose batch transforms and workers are those of a config's section.

    Args:
        section: ``dataloader.train`` or another one of a config.
        dataset, batches: see ``Loader``.
        **others: further arguments of ``Loader``, also in the place of the section's.
    """
    settings = section.loader
    arguments = {
        "num_workers": settings.num_workers,
        "use_shared_memory": settings.use_shared_memory,
        "timeout": settings.timeout,
        **others,
    }
    return Loader(dataset, batches, section.batch_transforms, **arguments)


def dead_worker(error: BaseException, casualties: str = "") -> PasslError:
    """Returns what to tell the user when Paddle reports that a worker process died.

    Args:
        error: Paddle's.
        casualties: what is known of the dead, see ``Watch.casualties``.
    """
    text = str(error).strip()
    said = casualties or (text.splitlines()[-1] if text else type(error).__name__)
    if re.search("bus error|SIGBUS", f"{text} {casualties}", re.IGNORECASE):
        # A page of shared memory that the machine could not give.
        return PasslError(
            "a data worker ran out of memory for its batches; lower loader.num_workers or the "
            "batch size, or set loader.use_shared_memory=false, and run it again (--resume auto)"
        )
    if re.search("signal: killed|SIGKILL", f"{text} {casualties}", re.IGNORECASE):
        remedy = (
            "was it ended by hand, or by the system, whose memory was full (see dmesg)? Then lower "
            "loader.num_workers or the batch size and run it again (--resume auto)"
        )
    else:
        remedy = "run it again (--resume auto); loader.num_workers=0 shows more"
    died = "the data workers failed" if "reader raises" in said else "a data worker died"
    return PasslError(f"{died}: {said}; {remedy}")


class _Reader(Dataset):
    """Returns what went wrong with a sample instead of raising it inside a worker.

    Args:
        dataset: where samples come from.
        watch: is told what is being read.
        tries: how many images to try, one after the other, until one can be read.
    """

    def __init__(self, dataset: ImageDataset, watch: Watch, tries: int):
        self.dataset, self.watch = dataset, watch
        self.tries = min(tries, len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> List[Any]:
        """Returns the errors of unreadable images and, unless all were, a sample or other error."""
        found: List[Any] = []
        for offset in range(self.tries):
            index = (key.index + offset) % len(self.dataset)
            found.append(self._read(key._replace(index=index)))
            if not isinstance(found[-1], UnreadableImage):
                break
        return found

    def _read(self, key: SampleKey) -> Any:
        try:
            with self.watch.working_on(key.index):
                return self.dataset[key]
        except PasslError as error:
            return error
        except MemoryError:
            return PasslError(
                f"{self.dataset.where(key.index)}: the memory is full; lower loader.num_workers or "
                "the batch size"
            )
        except (Exception, SystemExit):  # a mistake of ours, or of a user's transform: in full
            return PasslError(
                f"{self.dataset.where(key.index)}: reading this sample failed:\n"
                f"{traceback.format_exc().rstrip()}"
            )


def collate(
    samples: List[Any], handover: Optional[Handover] = None, watch: Optional[Watch] = None
) -> Dict[str, Any]:
    """Stacks samples field by field; sets the fields that report trouble, and raises nothing.

    Args:
        samples: dicts, and the errors of what could not be read; or lists of both, of ``_Reader``.
        handover: where a worker stacks them, if they fit.
        watch: knows which worker this is.
    """
    lists = [sample if isinstance(sample, list) else [sample] for sample in samples]
    samples = [sample for several in lists for sample in several]
    good = [sample for sample in samples if isinstance(sample, dict)]
    bad = [sample for sample in samples if not isinstance(sample, dict)]
    batch: Dict[str, Any] = {}
    try:
        for error in bad:
            if not isinstance(error, UnreadableImage):
                raise error
        if bad:
            batch[_UNREADABLE] = "\n".join(str(error).replace("\n", " ") for error in bad)
            batch[_NOTHING] = np.zeros(1, np.uint8)
        if good:
            _check_fields(good)
            note = handover.put(watch.worker, good) if handover is not None else None
            if note is not None:
                return {**batch, _NOTE: note, _NOTHING: np.zeros(1, np.uint8)}
            for field in good[0]:
                batch[field] = np.stack([np.asarray(sample[field]) for sample in good])
    except PasslError as error:
        return _failure(str(error))
    except MemoryError:
        return _failure(
            f"the memory is full where {len(good)} samples become a batch; lower "
            "loader.num_workers or the batch size"
        )
    except Exception:  # a mistake of ours, or values of a user's own that NumPy cannot take
        return _failure(
            f"making a batch of {len(good)} samples failed:\n{traceback.format_exc().rstrip()}"
        )
    return batch


# What becomes a tensor as it is. Paddle would take uint16 for bfloat16.
_KINDS = frozenset(
    "bool uint8 int8 int16 int32 int64 float16 float32 float64 complex64 complex128".split()
)


def _check_fields(samples: List[Dict[str, Any]]) -> None:
    """Makes sure that samples can be stacked.

    Raises:
        PasslError: what differs between them, or cannot be a tensor.
    """
    fields = list(samples[0])
    for sample in samples:
        if sample.keys() != samples[0].keys():
            raise PasslError(
                f"samples of one batch have differing fields ({', '.join(map(str, fields))}; "
                f"{', '.join(map(str, sample))}); transforms must give all of them the same ones"
            )
    for field in fields:
        arrays = [np.asarray(sample[field]) for sample in samples]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise PasslError(
                f"{'images' if field == 'image' else field} of one batch differ in shape "
                f"({', '.join(map(str, shapes))}); add a transform that gives all of them one "
                f"{'size, such as ResizeCenterCrop' if field == 'image' else 'shape'}"
            )
        for array in arrays:
            if array.dtype.name not in _KINDS:
                raise PasslError(
                    f"the field {field} of a sample holds {array.dtype}, which no tensor can "
                    f"hold; let the transforms leave it out, or give {', '.join(sorted(_KINDS))}"
                )


def _failure(message: str) -> Dict[str, Any]:
    return {_ERROR: message, _NOTHING: np.zeros(1, np.uint8)}


def _start(loader: DataLoader) -> Any:
    """Returns an iterator over ``loader``, whose workers are forked with collection turned off.

    A worker inherits the readers of earlier iterations that Python has not collected yet. Should
    it collect one, Paddle's destructor waits for threads that only the main process has: for ever.

    Raises:
        PasslError: the machine refuses what it takes.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return iter(loader)
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "start new thread" not in str(error):
            raise
        _abandon(error)
        raise starting_failed(error, loader.num_workers) from None
    finally:
        if collecting:
            gc.enable()


def _abandon(error: BaseException) -> None:
    """Ends the workers of an iterator whose start failed, which Paddle leaves half made."""
    place = error.__traceback__
    while place is not None:
        iterator = place.tb_frame.f_locals.get("self")
        if isinstance(iterator, dataloader_iter._DataLoaderIterMultiProcess):
            iterator._shutdown = True  # its destructor would stumble over what is not there
            for worker in getattr(iterator, "_workers", ()):
                worker.kill()
                worker.join()
            return
        place = place.tb_next
