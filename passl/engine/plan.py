"""What a run is going to be: everything that a config makes, before anything runs or is written."""

from __future__ import annotations

import dataclasses
from typing import Dict, Optional, Tuple

import paddle

from passl.datasets import ImageDataset, build_dataset
from passl.distributed.processes import Processes
from passl.engine.checks import check_classes, check_tokenizer, check_views, tell_of_captions
from passl.evaluation import Evaluator, build_evaluator, sections_also_read
from passl.modeling.architectures import Architecture, build_architecture
from passl.modeling.layers import has_batch_norms, has_sync_batch_norms, sync_batch_norms
from passl.solver import Optimizer, Schedule, build_optimizer, build_schedule
from passl.utils.config import Config, open_sections, origin_of, with_classes
from passl.utils.errors import PasslError
from passl.utils.logging import logger


@dataclasses.dataclass
class Plan:
    """A run, built.

    Attributes:
        cfg: what was built, with the number of classes where the config left it to the data.
        architecture: what learns, as it starts.
        optimizer: over its parameters.
        schedule: the learning rate of each step.
        evaluator: measures how good the network is.
        sections: of ``dataloader``, by name; ``train`` is among them, and what the evaluator reads.
        datasets: by the names of the sections.
        samples: images of the training set.
        global_batch: images an optimizer step.
        accumulation: micro-batches that a process makes a step of.
        equal_batches: whether all processes must have equally many samples in every step.
        steps_per_epoch, total_steps: in optimizer steps.
        schedule_epochs: over which the learning rate's schedule goes.
    """

    cfg: Config
    architecture: Architecture
    optimizer: Optimizer
    schedule: Schedule
    evaluator: Evaluator
    sections: Dict[str, Config]
    datasets: Dict[str, ImageDataset]
    samples: int
    global_batch: int
    accumulation: int
    equal_batches: bool
    steps_per_epoch: int
    total_steps: int
    schedule_epochs: int


def check_sections(cfg: Config, processes: int) -> None:
    """Makes sure that a config has what training needs, without building anything.

    Args:
        cfg: the whole config.
        processes: how many will train.

    Raises:
        PasslError: a section is missing, or the batch sizes do not fit together.
    """
    for key in ("optimizer", "lr_scheduler"):
        if cfg[key] is None:
            raise PasslError(f"the config has no '{key}' section, which training needs")
    if cfg.dataloader.train is None:
        raise PasslError("the config has no dataloader.train section, which training needs")
    batch_plan(cfg, processes)


def make_plan(cfg: Config, processes: Processes, schedule_epochs: Optional[int] = None) -> Plan:
    """Builds what a config describes.

    Args:
        cfg: the whole config, which has passed ``check_sections``.
        processes: those that will train; all must call this.
        schedule_epochs: over which the learning rate's schedule goes; None for those of the config.

    Raises:
        PasslError: anything wrong with config or data.
    """
    global_batch, accumulation = batch_plan(cfg, processes.size)
    cfg, datasets = with_counted_classes(cfg, processes)
    paddle.seed(cfg.seed)  # the initial weights
    architecture = build_architecture(cfg.model)
    evaluator = build_evaluator(cfg.evaluate.evaluator, architecture)
    if cfg.parallel.sync_batch_norm:
        sync_batch_norms(architecture)
    # A stand-in for a batch without images would be part of everybody's statistics.
    equal_batches = architecture.equal_batches or has_sync_batch_norms(architecture)
    if equal_batches and cfg.to_static and processes.size > 1:
        raise PasslError(
            "processes exchange tensors in the forward pass of this network, which a static "
            "program cannot do; set to_static=false, or train in one process",
            place=origin_of(cfg, "to_static"),
        )
    _check_accumulation(cfg, architecture, accumulation, processes.size)
    _check_settings(cfg, architecture)
    splits = {name: cfg.dataloader[name] for name in ("train", "val", "test")}
    sections = {name: section for name, section in splits.items() if section is not None}
    if "val" in sections or "test" in sections:
        sections.update(sections_also_read(cfg, evaluator))
    with processes.one_by_host():  # the first one leaves an index of the files to the others
        datasets.update(
            {name: _built(section) for name, section in sections.items() if name not in datasets}
        )
    check_views(architecture, datasets["train"], cfg.dataloader.train)
    check_tokenizer(architecture, datasets["train"], cfg.dataloader.train)
    for name, dataset in datasets.items():
        check_classes(architecture, dataset, datasets["train"].class_names, sections[name])
        if name != "train":
            evaluator.check(dataset)
    samples = len(datasets["train"])
    if samples < global_batch:
        raise PasslError(
            f"the training set has {samples} images, fewer than one batch of {global_batch}; set "
            f"-o dataloader.train.sampler.batch_size and global_batch_size to at most {samples}",
            place=origin_of(cfg.dataloader.train.sampler, "batch_size"),
        )
    _check_batches(cfg, architecture, samples, processes.size, global_batch)
    if processes.is_first:
        tell_of_captions(datasets["train"], global_batch)
    steps_per_epoch = samples // global_batch
    total_steps = cfg.epochs * steps_per_epoch
    schedule_epochs = cfg.epochs if schedule_epochs is None else schedule_epochs
    return Plan(
        cfg=cfg,
        architecture=architecture,
        optimizer=build_optimizer(cfg.optimizer, architecture),
        schedule=build_schedule(
            cfg.lr_scheduler,
            schedule_epochs * steps_per_epoch,
            steps_per_epoch,
            global_batch,
        ),
        evaluator=evaluator,
        sections=sections,
        datasets=datasets,
        samples=samples,
        global_batch=global_batch,
        accumulation=accumulation,
        equal_batches=equal_batches,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        schedule_epochs=schedule_epochs,
    )


def with_counted_classes(
    cfg: Config, processes: Processes
) -> Tuple[Config, Dict[str, ImageDataset]]:
    """Returns the config with as many classes as the training set has, where it leaves that open.

    And the sets that were built to count them, by the names of their sections.

    Raises:
        PasslError: the training set cannot be read, or has no labels.
    """
    if not open_sections(cfg):
        return cfg, {}
    with processes.one_by_host():
        dataset = _built(cfg.dataloader.train)
    return with_classes(cfg, _count_classes(dataset, cfg)), {"train": dataset}


def _built(section: Config) -> ImageDataset:
    return build_dataset(section.dataset, section.loader.max_pixels)


def _count_classes(dataset: ImageDataset, cfg: Config) -> int:
    """Returns how many classes the training set has.

    Raises:
        PasslError: it has no labels.
    """
    if dataset.class_names is not None:
        return len(dataset.class_names)
    if dataset.labels is None:
        section = open_sections(cfg)[0]
        raise PasslError(
            f"{dataset.where(0)}: has no label, so that the number of classes is not known; set "
            f"-o model.{section}.num_classes=…",
            place=origin_of(cfg.model[section], "num_classes"),
        )
    return int(dataset.labels.max()) + 1


def batch_plan(cfg: Config, processes: int = 1) -> Tuple[int, int]:
    """Returns (images an optimizer step, micro-batches they are split into).

    Raises:
        PasslError: ``global_batch_size`` is not a whole multiple of what the processes take at a
            time.
    """
    batch_size = cfg.dataloader.train.sampler.batch_size
    micro = batch_size * processes
    total = micro if cfg.global_batch_size is None else cfg.global_batch_size
    if total % micro:
        several = f" × {processes} processes" if processes > 1 else ""
        raise PasslError(
            f"global_batch_size {total} is not a whole multiple of batch_size {batch_size}"
            f"{several}; gradients are accumulated over whole batches",
            place=origin_of(cfg, "global_batch_size"),
        )
    return total, total // micro


def _check_accumulation(
    cfg: Config, architecture: Architecture, accumulation: int, processes: int
) -> None:
    """Raises PasslError where gradients of parts of a batch do not add up to that of the whole."""
    if accumulation == 1 or architecture.additive:
        return
    if architecture.two_pass:
        if has_batch_norms(architecture):
            logger.warning(
                "batch norms take their statistics over batch_size %d, a part of a batch at a time",
                cfg.dataloader.train.sampler.batch_size,
            )
        return
    batch_size, total = cfg.dataloader.train.sampler.batch_size, cfg.global_batch_size
    raise PasslError(
        f"global_batch_size {total} would be accumulated over {accumulation} batches, but the loss "
        f"of {type(architecture).__name__} compares the samples of a batch with one another, and "
        "parts of it would give another gradient; train with more processes "
        f"({total // batch_size} of batch_size {batch_size}), or set dataloader.train.sampler."
        f"batch_size={total // processes}, or global_batch_size={batch_size * processes}",
        place=origin_of(cfg, "global_batch_size"),
    )


def _check_settings(cfg: Config, architecture: Architecture) -> None:
    """Raises PasslError where a setting is one that the architecture excludes."""
    for setting in architecture.excludes:
        *path, key = setting.split(".")
        section = cfg
        for part in path:
            section = section[part]
        if section[key]:
            raise PasslError(
                f"{type(architecture).__name__} cannot be trained with {setting}; set "
                f"-o {setting}={'false' if section[key] is True else 0}",
                place=origin_of(section, key),
            )


def _check_batches(
    cfg: Config, architecture: Architecture, samples: int, processes: int, global_batch: int
) -> None:
    sampler = cfg.dataloader.train.sampler
    # In two passes it learns from all of a step at once.
    per_process = global_batch // processes if architecture.two_pass else sampler.batch_size
    try:
        architecture.check_batches(samples, per_process, processes)
    except PasslError as error:
        error.place = error.place or origin_of(sampler, "batch_size")
        raise
