"""The training loop, from config to trained network, top to bottom."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional

import paddle

from passl.datasets import ImageDataset, Loader, StandIn, TrainingBatches, dead_worker
from passl.distributed.interrupts import Interrupted, Interrupts
from passl.distributed.peers import Peers
from passl.distributed.processes import Processes, join_processes, launched_size, lost_process
from passl.engine.background import Background
from passl.engine.checkpoint import remove_partial_files, training_state, write_checkpoint
from passl.engine.checks import check_images
from passl.engine.execution import Execution
from passl.engine.plan import Plan, check_sections, make_plan
from passl.engine.precision import Precision
from passl.engine.run_lock import RunLock
from passl.engine.running_statistics import (
    running_statistics,
    share_running_statistics,
    take_back,
)
from passl.engine.sharding import check_sharding
from passl.engine.start import Start
from passl.engine.tally import Tally
from passl.evaluation.evaluator import crop_ratio, evaluate, evaluation_loader
from passl.hooks import Hook, Run, build_hooks
from passl.hooks.base import Progress, Record
from passl.hooks.checkpoint import BEST, LATEST, RUN_CONFIG, checkpoint_folder
from passl.hooks.metrics_file import read_metrics
from passl.modeling.architectures import Architecture
from passl.solver import Optimizer, WeightAverage, held
from passl.utils.commands import command, word
from passl.utils.config import Config, plain
from passl.utils.environment import describe_environment, select_device
from passl.utils.errors import PasslError
from passl.utils.logging import hold_for_file, log_to_file, logger, stop_logging_to_files
from passl.utils.seeding import step_seed
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error
from passl.utils.whole_files import replacing
from passl.weights import load_weights


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

    Under Paddle's launcher every process calls it; the first one speaks and writes for all.

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
    # -- everything that can be wrong is looked at before the first file is written
    device = select_device(cfg.device, cfg.tf32)
    precision = Precision(cfg.amp, device)
    check_sections(cfg, launched_size())
    folder = Path(cfg.output_dir)
    processes = join_processes()
    hold_for_file()
    try:
        with RunLock(folder, processes) as lock:
            start = Start(
                folder, resume, pretrained, weights_key, allow_partial, allow_batch_change,
                allow_data_change, extend,
            )  # fmt: skip
            return _train(cfg, folder, device, precision, processes, lock, start)
    finally:
        stop_logging_to_files()


def _train(
    cfg: Config,
    folder: Path,
    device: str,
    precision: Precision,
    processes: Processes,
    lock: RunLock,
    start: Start,
) -> Record:
    check_sharding(cfg, device, processes)
    schedule_epochs = start.schedule_epochs(cfg)
    plan = make_plan(cfg, processes, schedule_epochs)
    architecture, optimizer, datasets = plan.architecture, plan.optimizer, plan.datasets
    samples, global_batch, total_steps = plan.samples, plan.global_batch, plan.total_steps
    hooks = build_hooks(cfg.hooks, processes.is_first)

    resumed_at = start.resumed_at
    progress = start.check(cfg, datasets["train"], global_batch)
    start.load_pretrained(architecture, datasets["train"].class_names)
    average = None if cfg.ema is None else WeightAverage(architecture, **cfg.ema)
    if start.checkpoint is not None:
        start.checkpoint.restore(architecture, optimizer, average)
    for name, dataset in datasets.items():
        check_images(architecture, dataset, cfg.dataloader[name], name, cfg.seed)
    execution = Execution(cfg, architecture, optimizer, precision, processes)
    training_batches = TrainingBatches(
        samples,
        global_batch,
        global_batch // plan.accumulation,
        cfg.seed,
        progress.step,
        total_steps,
        cfg.dataloader.train.sampler.repeats,
        processes.rank,
        processes.size,
    )
    loader = Loader(
        datasets["train"],
        training_batches,
        cfg.dataloader.train.batch_transforms,
        num_workers=cfg.dataloader.train.loader.num_workers,
        use_shared_memory=cfg.dataloader.train.loader.use_shared_memory,
        max_unreadable=cfg.dataloader.train.loader.max_unreadable,
        timeout=cfg.dataloader.train.loader.timeout,
        batch_rng=training_batches.rng,
        stand_ins=True,
        replace_unreadable=plan.equal_batches,
    )
    evaluation_loaders = {
        name: evaluation_loader(datasets[name], cfg.dataloader[name], processes)
        for name in ("val", "test")
        if name in datasets
    }

    digest = datasets["train"].digest()
    processes.agree("the size of the training set", samples, "give every host the same images")
    processes.agree(
        "the files and labels of the training set (a part of their SHA-256)", int(digest[:13], 16),
        "give every host the same images and labels",
    )  # fmt: skip
    processes.agree(
        "the step to begin at", progress.step,
        f"put {folder} on a disk that all hosts share, so that all see its checkpoints",
    )  # fmt: skip

    # -- from here on the run writes
    environment = {**describe_environment(device), "processes": processes.size}
    lock.take()
    _prepare_folder(folder, cfg, environment, processes)
    record = {
        "samples": samples,
        "global_batch": global_batch,
        "samples_seen": 0,
        "class_names": datasets["train"].class_names,
        "training_set": {"sha256": digest, "class_counts": datasets["train"].class_counts()},
        "pretrained": start.pretrained,
        "schedule_epochs": schedule_epochs,
        "config": plain(cfg),
        "environment": environment,
    }

    def save(paths: List[Path], after: Callable[[], None]) -> bool:
        tally.settle()
        # It may be the weights that are wrong. A loss scale that moves is too large now and then.
        if progress.bad_in_a_row > int(optimizer.loss_scaling.moves):
            logger.warning(
                "step %d: not saved: the last %d gradients were not finite",
                progress.step,
                progress.bad_in_a_row,
            )
            return False
        share_running_statistics(architecture, processes)
        loss_sum, loss_images = processes.sum([progress.loss_sum, progress.loss_images])
        # From here on each process has the same part of the sum, as it will after a resume.
        progress.loss_sum = loss_sum / processes.size
        progress.loss_images = loss_images / processes.size
        record["samples_seen"] = progress.step * global_batch
        if processes.is_first or optimizer.shards is not None:
            tensors = training_state(architecture, optimizer, average)
        if processes.is_first:
            metadata = copy.deepcopy({"progress": vars(progress), **record})

            def write() -> None:
                write_checkpoint(paths, tensors, metadata)
                after()

            saving.do(write)
        return True

    saving = Background(cfg.checkpoint.background)
    tally = Tally(progress)

    run = Run(
        cfg=cfg,
        folder=folder,
        total_steps=total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        global_batch=global_batch,
        progress=progress,
        environment=environment,
        save=save,
        finish_saving=saving.finish,
        is_first=processes.is_first,
        resumed_at=resumed_at,
        architecture=architecture,
        loader=loader,
    )
    _announce(run, architecture, datasets, start, plan, schedule_epochs)
    try:
        with saving, Interrupts() as stop, Peers(processes, stop, cfg.parallel.lost_after) as peers:
            _call(hooks, "on_start", run)
            with contextlib.closing(iter(loader)) as batches:
                _loop(
                    run,
                    architecture,
                    execution,
                    optimizer,
                    average,
                    tally,
                    held(plan.schedule),
                    batches,
                    evaluation_loaders.get("val"),
                    plan.accumulation,
                    hooks,
                    peers,
                    processes,
                )
            saving.finish()
            if "test" in evaluation_loaders:
                # The best checkpoint has them in it; without one, what is there is reported.
                with _evaluated(average), execution.autocast():
                    _test_once(
                        run, architecture, evaluation_loaders["test"], hooks, peers, processes
                    )
            processes.wait()
            if processes.is_first and not (checkpoint_folder(folder) / LATEST).exists():
                raise PasslError(
                    f"{folder}: the run has ended without a checkpoint, because its last "
                    "gradients were not finite; lower learning_rate, lengthen the warm-up or set "
                    "optimizer.grad_clip"
                )
            _conclude(run)
    except SystemError as error:
        # Paddle raises this wherever the program happens to be when a worker process dies.
        raise dead_worker(error) from error
    except (RuntimeError, OSError) as error:  # what NCCL and CUDA report is an OSError in Paddle
        lost = lost_process(error) if processes.size > 1 else None
        if lost is not None:
            raise lost from error
        if not isinstance(error, OSError) or error.errno is None:
            raise
        if isinstance(error, BrokenPipeError):  # of the output, which is not the run's
            raise
        problem = explain_os_error(error, folder)
        raise PasslError(f"{problem}; then go on with --resume auto") from error
    finally:
        for hook in hooks:
            with contextlib.suppress(OSError):  # a full disk has been reported already
                hook.on_end(run)
    return _last_evaluation(folder)


def _loop(
    run: Run,
    architecture: Architecture,
    execution: Execution,
    optimizer: Optimizer,
    average: Optional[WeightAverage],
    tally: Tally,
    schedule: Callable[[int], float],
    batches: Iterator[Dict[str, Any]],
    val_loader: Optional[Loader],
    accumulation: int,
    hooks: List[Hook],
    peers: Peers,
    processes: Processes,
) -> None:
    """Steps until the run's end; what a step makes due happens before the next one."""
    progress, cfg = run.progress, run.cfg
    interval = cfg.log_config.interval
    # Images that this process takes in an optimizer step. An image that could not be read weighs
    # nothing, in whichever process it is missing, so that all of them divide by the same number.
    share = run.global_batch // processes.size
    architecture.train()
    statistics = running_statistics(architecture)
    images, clock = 0, time.perf_counter()
    stepped, reported, first = False, progress.bad_steps, True
    batch: Optional[Dict[str, Any]] = None
    while True:
        if val_loader is not None and run.evaluation_due:
            paused = time.perf_counter()
            _call(hooks, "before_evaluation", run)
            share_running_statistics(architecture, processes)
            with _evaluated(average), execution.autocast():
                record = evaluate(
                    architecture,
                    val_loader,
                    f"evaluate epoch {run.epoch}",
                    peers.stopping,
                    processes,
                )
            clock += time.perf_counter() - paused
            if record:
                record = {"step": progress.step, "epoch": run.epoch, "split": "val", **record}
                progress.evaluated_step = progress.step
                if not math.isfinite(record["loss"]):
                    logger.warning(
                        "step %d: the loss on the validation images is not finite", progress.step
                    )
                elif progress.best is None or _better(record, progress.best):
                    progress.best = record
                _call(hooks, "on_evaluation", run, record)
                stepped = True
            else:  # a process was asked to stop; after a resume it is evaluated anew
                peers.stop_before(progress.step)
        if stepped:
            _call(hooks, "on_step", run)
        step = progress.step
        if not peers.may_begin(step):
            _call(hooks, "on_stop", run)
            processes.wait()  # Paddle's launcher ends all others 3 s after the first has gone
            raise Interrupted(peers.signum)
        if step == run.total_steps:
            return

        if first:
            batch = next(batches)
            first = isinstance(batch, StandIn)
        if batch is not None and not first:
            paused = time.perf_counter()
            _call(hooks, "on_first_batch", run, batch)
            clock += time.perf_counter() - paused
        # Dropout and stochastic depth: a function of (seed, step), so nothing needs saving. After
        # the hooks, which may draw.
        paddle.seed(step_seed(cfg.seed, step, processes.rank))
        architecture.before_step(step, run.total_steps)
        before = [tensor.clone() for tensor in statistics]
        for micro in range(accumulation):
            batch = next(batches) if batch is None else batch
            count = 0 if isinstance(batch, StandIn) else next(iter(batch.values())).shape[0]
            # Gradients are exchanged once, with the last micro-batch.
            loss = execution.backward(batch, count / share, micro == accumulation - 1)
            tally.add_loss(loss, count)
            images, batch = images + count, None
        rate = schedule(step)
        recorded = (step + 1) % interval == 0 or step + 1 == run.total_steps
        norm = optimizer.gradient_norm() if recorded else None
        finite = optimizer.step(rate)
        tally.add_step(finite)
        take_back(statistics, before, finite)
        architecture.after_step(step, run.total_steps, optimizer.weights(), finite)
        progress.step += 1
        if average is not None:
            average.update(progress.step, optimizer.weights())
        stepped = True
        if recorded:
            tally.settle()
            loss_sum, loss_images, rate_images = processes.sum(
                [progress.loss_sum, progress.loss_images, images]
            )
            reported = _report_bad_steps(progress, reported, cfg.max_bad_steps)
            run.finish_saving(wait=False)
            now = time.perf_counter()
            record = {
                "step": progress.step,
                "epoch": run.epoch,
                "loss": loss_sum / max(loss_images, 1.0),
                "lr": rate,
                "grad_norm": norm.item(),
                "images_per_second": rate_images / (now - clock),
            }
            if not math.isfinite(record["grad_norm"]):  # not a number that JSON has
                del record["grad_norm"]
            progress.loss_sum = progress.loss_images = 0.0
            images, clock = 0, now
            if loss_images:  # else there is nothing to tell that has not been said
                _call(hooks, "on_record", run, record)


def _evaluated(average: Optional[WeightAverage]) -> ContextManager[None]:
    """Returns the context in which the network has the weights to evaluate."""
    return contextlib.nullcontext() if average is None else average.applied()


def _report_bad_steps(progress: Progress, reported: int, most: int) -> int:
    """Says how many steps were skipped since the last time; returns how many that are in all.

    Raises:
        PasslError: the last ``most`` of them and perhaps more were skipped.
    """
    total, in_a_row = progress.bad_steps, progress.bad_in_a_row
    if in_a_row >= most:
        raise PasslError(
            f"no gradient has been finite since step {progress.step - in_a_row + 1} ({in_a_row} "
            f"steps, max_bad_steps: {most}), and nothing has been saved since; lower "
            "learning_rate, lengthen the warm-up or set optimizer.grad_clip"
        )
    if total > reported:
        logger.warning(
            "step %d: %d steps were skipped because the loss or a gradient was not finite",
            progress.step,
            total - reported,
        )
    return total


def _call(hooks: List[Hook], moment: str, *arguments: Any) -> None:
    for hook in hooks:
        getattr(hook, moment)(*arguments)


def _better(record: Record, best: Record) -> bool:
    """By Top-1; on a small set ties are common, and the lower loss decides."""
    return (record["top1"], -record["loss"]) > (best["top1"], -best["loss"])


def _test_once(
    run: Run,
    architecture: Architecture,
    loader: Loader,
    hooks: List[Hook],
    peers: Peers,
    processes: Processes,
) -> None:
    """Reports the test split, with the best weights, once in the life of a run."""
    records = read_metrics(run.folder / "metrics.jsonl") if processes.is_first else []
    done = [r.get("split") == "test" and r["step"] == run.progress.step for r in records]
    if processes.sum([any(done)])[0]:
        return
    best = checkpoint_folder(run.folder) / BEST
    if best.exists():
        load_weights(architecture, best)
    share_running_statistics(architecture, processes)
    record = evaluate(architecture, loader, "test", peers.stopping, processes)
    if not record:
        raise Interrupted(peers.signum)
    record = {"step": run.progress.step, "epoch": run.epoch, "split": "test", **record}
    _call(hooks, "on_evaluation", run, record)


def _conclude(run: Run) -> None:
    """Says what came of the run, where it is, and what one does with it."""
    checkpoints, best = checkpoint_folder(run.folder), run.progress.best
    if best is not None:
        logger.info(
            "best: epoch %d, %s Top-1 %.2f %%, loss %.4f, in %s; the last weights are in %s",
            best["epoch"],
            best["split"],
            best["top1"],
            best["loss"],
            checkpoints / BEST,
            LATEST,
        )
    else:
        logger.info("done: the last weights are in %s", checkpoints / LATEST)
    config, report, deploy = (
        word(str(run.folder / name)) for name in (RUN_CONFIG, "report", "deploy")
    )
    if best is not None:
        logger.info("next: %s -c %s --report %s", command("eval"), config, report)
    logger.info("next: %s -c %s IMAGE …", command("predict"), config)
    logger.info("next: %s -c %s --output %s", command("export"), config, deploy)


def _last_evaluation(folder: Path) -> Record:
    records = [r for r in read_metrics(folder / "metrics.jsonl") if "split" in r]
    return records[-1] if records else {}


def _prepare_folder(
    folder: Path, cfg: Config, environment: Dict[str, Any], processes: Processes
) -> None:
    try:
        if not processes.is_first:
            processes.wait()  # for the folder
            log_to_file(str(folder / f"train.process{processes.rank}.log"))
            return
        checkpoint_folder(folder).mkdir(parents=True, exist_ok=True)  # now, not after an epoch
        remove_partial_files(checkpoint_folder(folder))
        log_to_file(str(folder / "train.log"))
        with replacing(folder / RUN_CONFIG) as aside:
            aside.write_text(cfg.to_yaml(), encoding="utf-8")
        # One line per process that worked on the run, so that a number can be traced.
        line = to_json({"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **environment})
        with open(folder / "environment.jsonl", "a", encoding="utf-8") as file:
            file.write(line + os.linesep)
        processes.wait()
    except OSError as error:
        raise explain_os_error(error, folder) from None


def _announce(
    run: Run,
    architecture: Architecture,
    datasets: Dict[str, ImageDataset],
    start: Start,
    plan: Plan,
    schedule_epochs: int,
) -> None:
    environment = run.environment
    parameters = sum(p.size for p in architecture.parameters() if not p.stop_gradient)
    logger.info(
        "%s on %s, %s math threads%s; Paddle %s, commit %s, seed %d",
        run.folder,
        environment["device"],
        environment["math_threads"],
        f", set {' '.join(environment['environment_set'])}"
        if environment["environment_set"]
        else "",
        environment["paddle"],
        environment["commit"],
        run.cfg.seed,
    )
    logger.info(
        "%s parameters; images: %s; %d epochs of %d steps of %d images%s",
        f"{parameters:,}",
        ", ".join(f"{name} {len(dataset):,}" for name, dataset in datasets.items()),
        run.cfg.epochs,
        run.steps_per_epoch,
        run.global_batch,
        (f" in {plan.accumulation} micro-batches" if plan.accumulation > 1 else "")
        + (f", on {environment['processes']} processes" if environment["processes"] > 1 else ""),
    )
    for name in ("val", "test"):
        if name in datasets and crop_ratio(datasets[name]) is not None:
            logger.info("%s at crop ratio %g", name, crop_ratio(datasets[name]))
    if "val" not in datasets:
        logger.info("no dataloader.val: nothing is evaluated and no best checkpoint is chosen")
    if run.cfg.ema is not None:
        logger.info(
            "evaluated and kept as best: the moving average of the weights, decay %g",
            run.cfg.ema.decay,
        )
    if schedule_epochs != run.cfg.epochs:
        logger.info(
            "the learning rate's schedule goes over %d epochs; after them it stays at %.3g",
            schedule_epochs,
            held(plan.schedule)(run.total_steps),
        )
    if start.checkpoint is not None:
        logger.info(
            "resumed from %s at step %d%s",
            start.checkpoint.path,
            run.progress.step,
            ": nothing is left to train" if run.progress.step == run.total_steps else "",
        )
