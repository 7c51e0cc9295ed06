"""What a run says of itself at its beginning and at its end."""

from __future__ import annotations

from passl.engine.training_run import TrainingRun
from passl.evaluation import crop_ratio
from passl.solver import held
from passl.utils.commands import command, word
from passl.utils.logging import logger
from passl.utils.run_folder import BEST, LATEST, RUN_CONFIG, checkpoint_folder


def announce(run: TrainingRun) -> None:
    """Says where the run is, what it is made of, and where it begins."""
    environment = run.environment
    parameters = sum(p.size for p in run.architecture.parameters() if not p.stop_gradient)
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
        ", ".join(f"{name} {len(dataset):,}" for name, dataset in run.datasets.items()),
        run.cfg.epochs,
        run.steps_per_epoch,
        run.global_batch,
        (f" in {run.plan.accumulation} micro-batches" if run.plan.accumulation > 1 else "")
        + (f", on {environment['processes']} processes" if environment["processes"] > 1 else ""),
    )
    rest = run.plan.samples % run.global_batch
    if rest and run.cfg.dataloader.train.sampler.repeats == 1:
        logger.info("%s images fill no batch and are left out of an epoch, others each time",
                    f"{rest:,}")  # fmt: skip
    for name in ("val", "test"):
        if name in run.datasets and crop_ratio(run.datasets[name]) is not None:
            logger.info("%s at crop ratio %g", name, crop_ratio(run.datasets[name]))
    if "val" not in run.datasets:
        logger.info("no dataloader.val: nothing is evaluated and no best checkpoint is chosen")
    if run.cfg.ema is not None:
        logger.info(
            "evaluated and kept as best: the moving average of the weights, decay %g",
            run.cfg.ema.decay,
        )
    if run.plan.schedule_epochs != run.cfg.epochs:
        logger.info(
            "the learning rate's schedule goes over %d epochs; after them it stays at %.3g",
            run.plan.schedule_epochs,
            held(run.plan.schedule)(run.total_steps),
        )
    if run.start.checkpoint is not None:
        logger.info(
            "resumed from %s at step %d%s",
            run.start.checkpoint.path,
            run.progress.step,
            ": nothing is left to train" if run.progress.step == run.total_steps else "",
        )


def conclude(run: TrainingRun) -> None:
    """Says what came of the run, where it is, and what one does with it."""
    checkpoints, best = checkpoint_folder(run.folder), run.progress.best
    if best is not None:
        logger.info(
            "best: epoch %d, %s %s, in %s; the last weights are in %s",
            best["epoch"],
            best["split"],
            run.evaluator.headline(best),
            checkpoints / BEST,
            LATEST,
        )
    else:
        logger.info("done: the last weights are in %s", checkpoints / LATEST)
    config, report, deploy, features, backbone = (
        word(str(run.folder / name))
        for name in (RUN_CONFIG, "report", "deploy", "features", "backbone.safetensors")
    )
    if run.architecture.training_parts:  # it is pre-trained for what is left without them
        folder, last = word(str(run.folder)), word(str(checkpoints / LATEST))
        logger.info("next: %s -c %s IMAGE … --output %s", command("features"), config, features)
        logger.info("next: %s -c CONFIG --pretrained %s", command("train"), folder)
        logger.info("next: %s %s %s --part backbone", command("convert"), last, backbone)
        return
    if best is not None:
        logger.info("next: %s -c %s --report %s", command("eval"), config, report)
    if hasattr(run.architecture, "use_classifier"):  # it is told what to tell apart
        words = "--labels 'a cat,a dog'"
        logger.info("next: %s -c %s IMAGE … %s", command("predict"), config, words)
        logger.info("next: %s 'a cat' -c %s --in FOLDER", command("search"), config)
        return
    logger.info("next: %s -c %s IMAGE …", command("predict"), config)
    logger.info("next: %s -c %s --output %s", command("export"), config, deploy)
