"""How fast: the input pipeline by stage, the model, both together, and the trained network."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.datasets import (
    Loader,
    TrainingBatches,
    build_dataset,
    section_loader,
    with_synthetic_data,
)
from passl.datasets.image_size import image_size
from passl.datasets.images.decoding import decode_image
from passl.datasets.loading.loader import collate
from passl.datasets.view import evaluation_view
from passl.deployment.export import FORMATS, TOLERANCE, export
from passl.deployment.runtimes import candidates, difference
from passl.engine.plan import batch_plan
from passl.engine.precision import Precision
from passl.engine.step import trial_step
from passl.inspection.made_up import made_up_batch
from passl.modeling.architectures import Architecture, build_architecture
from passl.solver import WeightAverage, build_optimizer
from passl.utils.config import Config, split_section
from passl.utils.errors import PasslError
from passl.utils.seeding import epoch_order, sample_rng

Result = Dict[str, Any]
_WARM_UP = 2  # batches before the clock starts


def data_stages(cfg: Config, split: str, images: int, repeats: int) -> Result:
    """Times each stage of reading ``images`` images, one process, one image after the other.

    Returns:
        ``stages``: milliseconds an image of ``read``, ``decode``, ``transform``, ``collate`` and
        ``transfer`` (to the device, normalisation included), medians of ``repeats``;
        ``images_per_second``: of all of them together.

    Raises:
        PasslError: the split is missing, or does not read files.
    """
    section = split_section(cfg, split)
    dataset = build_dataset(section.dataset, section.loader.max_pixels)
    if not hasattr(dataset, "read_bytes"):
        raise PasslError(f"{section.dataset.name} does not read image files; nothing to take apart")
    batches = TrainingBatches(len(dataset), 1, 1, cfg.seed, 0, 1)
    loader = Loader(dataset, [], section.batch_transforms, batch_rng=batches.rng)
    order = epoch_order(cfg.seed, 0, len(dataset))[:images]
    batch_size = section.sampler.batch_size
    rows: List[Dict[str, float]] = []
    for repeat in range(repeats + 1):  # the first one warms caches up
        spent = dict.fromkeys(("read", "decode", "transform", "collate", "transfer"), 0.0)
        for begin in range(0, len(order), batch_size):
            samples = []
            for index in map(int, order[begin : begin + batch_size]):
                with _timed(spent, "read"):
                    data = dataset.read_bytes(index)
                with _timed(spent, "decode"):
                    image = decode_image(data, dataset.path(index), dataset.max_pixels)
                sample = dataset.untransformed(index, image)
                rng = sample_rng(cfg.seed, repeat, index)
                with _timed(spent, "transform"):
                    samples.append(dataset.transform(sample, rng))
            with _timed(spent, "collate"):
                batch = collate(samples)
            with _timed(spent, "transfer"):
                _transfer(loader, batch)
        rows.append({stage: 1e3 * seconds / len(order) for stage, seconds in spent.items()})
    rows = rows[1:]
    stages = {stage: statistics.median(row[stage] for row in rows) for stage in rows[0]}
    return {
        "images": len(order),
        "stages": stages,
        "images_per_second": 1e3 / sum(stages.values()),
    }


def data_loader(cfg: Config, split: str, batches: int, repeats: int) -> Result:
    """Times the whole loader as the config has it, workers and hand-over included.

    Returns:
        ``images_per_second``, the median of ``repeats`` runs of ``batches`` batches each, and
        ``num_workers``.
    """
    section = split_section(cfg, split)
    rates = []
    stream = _batches(cfg, split, _WARM_UP + repeats * batches)
    for _ in range(_WARM_UP):
        next(stream)
    for _ in range(repeats):
        started, count = time.perf_counter(), 0
        for batch in itertools.islice(stream, batches):
            count += next(iter(batch.values())).shape[0]
        _wait()
        rates.append(count / (time.perf_counter() - started))
    stream.close()
    return {
        "images_per_second": statistics.median(rates),
        "num_workers": section.loader.num_workers,
        "rates": rates,
    }


def model_steps(cfg: Config, device: str, steps: int, repeats: int) -> Result:
    """Times training steps on one batch of random pixels that stays on the device.

    Precision, recomputation, static program, accumulation and moving average are the config's.

    Args:
        cfg: the whole config.
        device: the one selected.
        steps: batches a run, forward and backward.
        repeats: runs.

    Returns:
        ``images_per_second``, median of the runs, ``batch_size``, ``accumulation`` (batches an
        optimizer step) and ``parameters``.
    """
    section = split_section(cfg, "train")
    architecture, accumulation, step = _stepper(cfg, device, steps)
    count = section.sampler.batch_size
    try:
        dataset = build_dataset(section.dataset, section.loader.max_pixels)
        batch = made_up_batch(cfg, dataset, architecture, count)
    except PasslError:  # its data is not here, and only the size of its images is needed
        dataset = build_dataset(with_synthetic_data(cfg).dataloader.train.dataset)
        batch = made_up_batch(cfg, dataset, architecture, count)
    batches = itertools.repeat(batch)
    rates = _rates(lambda: step(batches), steps // accumulation, repeats, accumulation * count)
    parameters = sum(p.size for p in architecture.parameters())
    return {
        "images_per_second": statistics.median(rates),
        "batch_size": count,
        "accumulation": accumulation,
        "parameters": parameters,
        "rates": rates,
    }


def inference(
    cfg: Config, network: nn.Layer, batch_sizes: Sequence[int], steps: int, repeats: int
) -> Result:
    """Times a network as each runtime runs it, side by side.

    They take turns, so that what slows the machine down slows all of them down.

    Args:
        cfg: the whole config; its validation images decide the size.
        network: with its weights.
        batch_sizes: images at a time.
        steps: batches a turn.
        repeats: turns.

    Returns:
        ``runtimes``: by name, with ``difference`` (of the logits from the network's, relative to
        the largest) and, by batch size, ``milliseconds`` a batch and ``images_per_second``, medians
        of the turns, and ``ratio``, the median over the turns of the rate to the eager one;
        ``left_out``: the reasons of those that cannot run here; ``fastest``: by batch size, of
        those that give the network's logits.
    """
    section = evaluation_view(cfg)
    size = image_size(section)
    left_out: Dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="passl-") as place:
        folder = Path(place)
        try:
            export(network, folder, section, size, {}, FORMATS, int8=True)
        except PasslError as error:
            export(network, folder, section, size, {}, ["paddle"])
            left_out["ONNX"] = str(error)
        runs: Dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        for name, run, reason in candidates(folder, network):
            if run is None:
                left_out[name] = reason
            else:
                runs[name] = run
        rng = np.random.default_rng(0)
        images = rng.standard_normal((max(batch_sizes), 3, *size)).astype(np.float32)
        expected = runs["eager"](images)
        result: Dict[str, Any] = {
            name: {"difference": difference(run(images), expected)} for name, run in runs.items()
        }
        for count in batch_sizes:
            batch = images[:count]
            seconds: Dict[str, List[float]] = {name: [] for name in runs}
            for run in runs.values():
                run(batch)
            for _ in range(repeats):
                for name, run in runs.items():
                    started = time.perf_counter()
                    for _ in range(steps):
                        run(batch)
                    seconds[name].append((time.perf_counter() - started) / steps)
            for name, turns in seconds.items():
                median = statistics.median(turns)
                result[name][str(count)] = {
                    "milliseconds": 1e3 * median,
                    "images_per_second": count / median,
                    "ratio": statistics.median(e / t for e, t in zip(seconds["eager"], turns)),
                }
    exact = [name for name in result if result[name]["difference"] <= TOLERANCE]
    fastest = {
        str(count): max(exact, key=lambda name: result[name][str(count)]["ratio"])
        for count in batch_sizes
    }
    return {"runtimes": result, "left_out": left_out, "fastest": fastest, "image_size": list(size)}


def training(cfg: Config, device: str, steps: int) -> Result:
    """Times training steps fed by the loader.

    Args:
        cfg: the whole config.
        device: the one selected.
        steps: batches, forward and backward; optimizer steps are as many as they make.

    Returns:
        ``images_per_second`` and ``waiting``, the share of the time in which the model had no
        batch to work on; ``steps``, batches, and ``accumulation``, batches an optimizer step.
    """
    split_section(cfg, "train")
    _, accumulation, step = _stepper(cfg, device, steps)
    times = steps // accumulation
    stream = _batches(cfg, "train", (_WARM_UP + times) * accumulation)
    for _ in range(_WARM_UP):
        step(stream)
    watched = _Watched(stream)
    started = time.perf_counter()
    for _ in range(times):
        step(watched)
    total = time.perf_counter() - started
    stream.close()
    return {
        "images_per_second": watched.images / total,
        "waiting": watched.waited / total,
        "steps": times * accumulation,
        "accumulation": accumulation,
    }


class _Watched:
    """An iterator over batches that notes how long it was waited for, and their images."""

    def __init__(self, batches: Iterator[Dict[str, Any]]):
        self._batches, self.waited, self.images = batches, 0.0, 0

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> Dict[str, Any]:
        before = time.perf_counter()
        batch = next(self._batches)
        self.waited += time.perf_counter() - before
        self.images += next(iter(batch.values())).shape[0]
        return batch


@contextlib.contextmanager
def _timed(spent: Dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    spent[stage] += time.perf_counter() - started


def _batches(cfg: Config, split: str, count: int) -> Iterator[Dict[str, Any]]:
    section = split_section(cfg, split)
    dataset = build_dataset(section.dataset, section.loader.max_pixels)
    size = min(section.sampler.batch_size, len(dataset))
    batches = TrainingBatches(len(dataset), size, size, cfg.seed, 0, count)
    yield from section_loader(
        section,
        dataset,
        batches,
        max_unreadable=section.loader.max_unreadable,
        batch_rng=batches.rng,
    )


def _transfer(loader: Loader, batch: Dict[str, Any]) -> None:
    loader.transform({name: paddle.to_tensor(array) for name, array in batch.items()})
    _wait()


def _stepper(
    cfg: Config, device: str, most: int
) -> Tuple[Architecture, int, Callable[[Iterator[Dict[str, Any]]], None]]:
    """Returns a network, its micro-batches a step, and what makes a step on those of an iterator.

    Args:
        cfg: the whole config.
        device: the one selected.
        most: micro-batches a step; more, which a single process has where several were planned, are
            cut to as many.
    """
    architecture = build_architecture(cfg.model)
    optimizer = build_optimizer(cfg.optimizer or {"name": "SGD"}, architecture)
    average = None if cfg.ema is None else WeightAverage(architecture, **cfg.ema)
    accumulation = min(batch_plan(cfg)[1], most)
    images = accumulation * cfg.dataloader.train.sampler.batch_size
    precision = Precision.where_possible(cfg.amp, device)
    make = trial_step(cfg, architecture, optimizer, precision, images, accumulation, average)
    numbers = itertools.count()

    def step(batches: Iterator[Dict[str, Any]]) -> None:
        make(next(numbers), batches, 1e-4)
        _wait()

    return architecture, accumulation, step


def _rates(call: Callable[[], None], times: int, repeats: int, images: int) -> List[float]:
    for _ in range(_WARM_UP):
        call()
    rates = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(times):
            call()
        rates.append(times * images / (time.perf_counter() - started))
    return rates


def _wait() -> None:
    """Waits until the device has done what it was given: a GPU works behind Python's back."""
    if paddle.get_device().startswith("gpu"):
        paddle.device.synchronize()


__all__ = ["data_loader", "data_stages", "inference", "model_steps", "training"]
