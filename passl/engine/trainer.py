"""``train``: from a config to a trained network."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Iterator, Optional

from passl.datasets import Loader, TrainingBatches, dead_worker, section_loader
from passl.distributed.peers import Peers
from passl.distributed.processes import Processes, join_processes, launched_size, lost_process
from passl.engine.checkpoint import remove_partial_files
from passl.engine.checks import check_images
from passl.engine.determinism import ask_for_determinism, say_what_stays_open
from passl.engine.execution import Execution
from passl.engine.plan import Plan, check_sections, make_plan
from passl.engine.precision import Precision
from passl.engine.run_lock import RunLock
from passl.engine.sharding import check_sharding
from passl.engine.start import Start
from passl.engine.step import TrainingStep
from passl.engine.summary import announce, conclude
from passl.engine.training_run import TrainingRun
from passl.evaluation import evaluation_loader
from passl.hooks import build_hooks
from passl.hooks.base import Record
from passl.solver import WeightAverage
from passl.utils.config import Config
from passl.utils.environment import describe_environment, select_device
from passl.utils.errors import PasslError
from passl.utils.logging import hold_for_file, log_to_file, stop_logging_to_files
from passl.utils.run_folder import RUN_CONFIG, checkpoint_folder
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error
from passl.utils.whole_files import replacing


def train(
    cfg: Config,
    resume: Optional[str] = None,
    pretrained: Optional[str] = None,
    weights_key: Optional[str] = None,
    allow_partial: bool = False,
    allow_batch_change: bool = False,
    allow_data_change: bool = False,
    extend: Optional[str] = None,
) -> Record:
    """Trains as the config says, and writes everything to ``cfg.output_dir``.

    Under Paddle's launcher every process calls it; rank 0 alone prints and writes.

    Args:
        cfg: the whole config.
        resume: a checkpoint to continue from; ``auto`` takes the latest of the output folder
            and starts from the beginning, or from ``pretrained``, where there is none.
        pretrained: weights to begin from, without training state, whoever released them. Of a head
            for other classes, those rows are taken whose classes have the same names.
        weights_key, allow_partial: see ``passl.weights.load_weights``.
        allow_batch_change: whether a resumed run may take another number of images a step.
        allow_data_change: whether it may have other images or labels, as many as before.
        extend: allows a resumed run more epochs than it had: ``stretch`` takes the learning rate of
            a run that was to be that long from the start, ``hold`` keeps the schedule as it was and
            its last rate beyond its end.

    Returns:
        The last evaluation record (of the test split where there is one, else of the
        validation split); empty where the config has neither.

    Raises:
        PasslError: anything wrong with config, data, files or device. Nothing is written before
            all of them have been checked.
        Interrupted: a signal; the state was saved.
    """
    device = select_device(cfg.device, cfg.tf32)
    if cfg.deterministic:
        ask_for_determinism(device)
    precision = Precision(cfg.amp, device)
    check_sections(cfg, launched_size())
    folder = Path(cfg.output_dir)
    processes = join_processes()
    hold_for_file()
    try:
        with Peers(processes, cfg.parallel.lost_after) as peers, RunLock(folder, processes) as lock:
            start = Start(
                folder, resume, pretrained, weights_key, allow_partial, allow_batch_change,
                allow_data_change, extend,
            )  # fmt: skip
            run = _build(cfg, folder, device, precision, processes, peers, start)
            # Everything that can be wrong has been looked at; from here on the run writes.
            lock.take()
            _prepare_folder(run)
            announce(run)
            if cfg.deterministic:
                say_what_stays_open(device)
            try:
                with _explained_errors(run):
                    run.train()
                    conclude(run)
            finally:
                for hook in run.hooks:
                    with contextlib.suppress(OSError):  # a full disk has been reported already
                        hook.on_end(run)
            return run.last_evaluation()
    finally:
        stop_logging_to_files()


def _build(
    cfg: Config,
    folder: Path,
    device: str,
    precision: Precision,
    processes: Processes,
    peers: Peers,
    start: Start,
) -> TrainingRun:
    """Returns the run, ready to begin; nothing is written.

    Raises:
        PasslError: anything wrong with config, data, files or device, or a checkpoint that does not
            belong to them.
    """
    check_sharding(cfg, device, processes)
    plan = make_plan(cfg, processes, start.schedule_epochs(cfg))
    cfg, architecture, optimizer, datasets = (
        plan.cfg, plan.architecture, plan.optimizer, plan.datasets
    )  # fmt: skip
    hooks = build_hooks(cfg, plan.evaluator, processes.is_first)
    progress = start.check(cfg, datasets["train"], plan.global_batch)
    start.load_pretrained(architecture, datasets["train"].class_names)
    average = None if cfg.ema is None else WeightAverage(architecture, **cfg.ema)
    if start.checkpoint is not None:
        start.checkpoint.restore(architecture, optimizer, average)
    for name, dataset in datasets.items():
        check_images(architecture, dataset, plan.sections[name], name, cfg.seed)
    execution = Execution(cfg, architecture, optimizer, precision, processes)
    digest = datasets["train"].digest()
    run = TrainingRun(
        cfg=cfg,
        folder=folder,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        global_batch=plan.global_batch,
        progress=progress,
        environment={**describe_environment(device), "processes": processes.size},
        architecture=architecture,
        loader=_training_loader(cfg, plan, progress.step, processes),
        evaluator=plan.evaluator,
        is_first=processes.is_first,
        resumed_at=start.resumed_at,
        start=start,
        plan=plan,
        processes=processes,
        peers=peers,
        hooks=hooks,
        average=average,
        execution=execution,
        step=TrainingStep(
            architecture,
            optimizer,
            execution,
            average,
            images=plan.global_batch // processes.size,
            accumulation=plan.accumulation,
            total_steps=plan.total_steps,
            seed=cfg.seed,
            rank=processes.rank,
        ),
        evaluation_loaders={
            name: evaluation_loader(datasets[name], section, processes)
            for name, section in plan.sections.items()
            if name != "train"
        },
        training_set={"sha256": digest, "class_counts": datasets["train"].class_counts()},
    )
    processes.agree("the size of the training set", plan.samples, "give every host the same images")
    processes.agree(
        "the files and labels of the training set (a part of their SHA-256)", int(digest[:13], 16),
        "give every host the same images and labels",
    )  # fmt: skip
    processes.agree(
        "the step to begin at", progress.step,
        f"put {folder} on a disk that all hosts share, so that all see its checkpoints",
    )  # fmt: skip
    return run


def _training_loader(cfg: Config, plan: Plan, first_step: int, processes: Processes) -> Loader:
    section = cfg.dataloader.train
    batches = TrainingBatches(
        plan.samples,
        plan.global_batch,
        plan.global_batch // plan.accumulation,
        cfg.seed,
        first_step,
        plan.total_steps,
        section.sampler.repeats,
        processes.rank,
        processes.size,
    )
    return section_loader(
        section,
        plan.datasets["train"],
        batches,
        max_unreadable=section.loader.max_unreadable,
        batch_rng=batches.rng,
        stand_ins=True,
        replace_unreadable=plan.equal_batches,
    )


@contextlib.contextmanager
def _explained_errors(run: TrainingRun) -> Iterator[None]:
    """Turns what Paddle and the operating system raise during a run into what it means for one."""
    try:
        yield
    except SystemError as error:
        # Paddle raises this wherever the program happens to be when a worker process dies.
        raise dead_worker(error) from error
    except (RuntimeError, OSError) as error:  # what NCCL and CUDA report is an OSError in Paddle
        lost = lost_process(error) if run.processes.size > 1 else None
        if lost is not None:
            raise lost from error
        if not isinstance(error, OSError) or error.errno is None:
            raise
        if isinstance(error, BrokenPipeError):  # of the output, which is not the run's
            raise
        problem = explain_os_error(error, run.folder)
        raise PasslError(f"{problem}; then go on with --resume auto") from error


def _prepare_folder(run: TrainingRun) -> None:
    folder, processes = run.folder, run.processes
    try:
        if not processes.is_first:
            processes.wait()  # for the folder
            log_to_file(str(folder / f"train.process{processes.rank}.log"))
            return
        checkpoint_folder(folder).mkdir(parents=True, exist_ok=True)  # now, not after an epoch
        remove_partial_files(checkpoint_folder(folder))
        log_to_file(str(folder / "train.log"))
        with replacing(folder / RUN_CONFIG) as aside:
            aside.write_text(run.cfg.to_yaml(), encoding="utf-8")
        # One line per process that worked on the run, so that a number can be traced.
        line = to_json({"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **run.environment})
        with open(folder / "environment.jsonl", "a", encoding="utf-8") as file:
            file.write(line + os.linesep)
        processes.wait()
    except OSError as error:
        raise explain_os_error(error, folder) from None
