"""The evaluation loop: Top-1, Top-5 and loss over exactly the samples of a set."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict

import paddle
from tqdm import tqdm

from passl.datasets import EvaluationBatches, ImageDataset, Loader
from passl.datasets.transforms.base import Transform, stated
from passl.distributed.processes import Processes
from passl.evaluation.metrics import NO_ANSWER, label_ranks
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.logging import interactive

_ALONE = Processes()


def evaluation_loader(
    dataset: ImageDataset, section: Config, processes: Processes = _ALONE
) -> Loader:
    """Returns a loader that yields every sample of ``dataset`` once, over all processes.

    Args:
        dataset: the set.
        section: ``dataloader.val`` or ``.test`` of a config.
        processes: among which the samples are shared out.
    """
    return Loader(
        dataset,
        EvaluationBatches(len(dataset), section.sampler.batch_size, processes.rank, processes.size),
        section.batch_transforms,
        num_workers=section.loader.num_workers,
        use_shared_memory=section.loader.use_shared_memory,
        timeout=section.loader.timeout,
    )


def evaluate(
    architecture: Architecture,
    loader: Loader,
    name: str = "evaluate",
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = _ALONE,
    look: Callable[[Dict[str, Any], Dict[str, Any]], None] = lambda outputs, batch: None,
) -> Dict[str, Any]:
    """Evaluates a classifier; every process gets the result over the samples of all.

    Args:
        architecture: gives ``logits`` ``[N, K]`` and ``loss``, the mean over the batch.
        loader: batches with ``image`` and ``label``.
        name: what the progress bar says.
        stop: asked before every batch; a true answer abandons the evaluation, of all processes.
        processes: those that evaluate together; all must call this.
        look: gets the outputs and the batch, of each batch of this process.

    Returns:
        ``top1`` and ``top5`` in percent (with fewer than five classes, ``top5`` is Top-K of
        all of them), ``loss``, ``samples``, ``seconds`` and ``images_per_second``; where there
        are any, ``without_answer``: the images whose logits are not finite, which count as wrong;
        an empty dict when it was abandoned.
    """
    was_training = architecture.training
    architecture.eval()
    samples, stopped = 0, False
    correct1 = correct5 = unanswered = paddle.zeros([], dtype="int64")
    # float64 does not lose small terms over a million images; its cost is one addition a batch.
    loss_sum = paddle.zeros([], dtype="float64")
    started = time.perf_counter()
    try:
        with paddle.no_grad(), tqdm(
            total=len(loader.dataset), desc=name, unit="image", leave=False,
            disable=not interactive() or not processes.is_first,
        ) as bar:  # fmt: skip
            for batch in loader:
                if stop():
                    stopped = True
                    break
                outputs = architecture(batch)
                look(outputs, batch)
                ranks = label_ranks(outputs["logits"], batch["label"])
                correct1 = correct1 + (ranks < 1).sum()
                correct5 = correct5 + (ranks < 5).sum()
                unanswered = unanswered + (ranks == NO_ANSWER).sum()
                count = batch["label"].shape[0]
                loss_sum = loss_sum + outputs["loss"].astype("float64") * count
                samples += count
                bar.update(min(count * processes.size, bar.total - bar.n))
    finally:
        if was_training:
            architecture.train()
    # Counts are whole numbers, which float64 adds up exactly.
    right1, right5, without_answer, loss, samples, stopped = processes.sum(
        [int(correct1), int(correct5), int(unanswered), float(loss_sum), samples, stopped]
    )
    if stopped:
        return {}
    seconds = time.perf_counter() - started
    samples = int(samples)
    result = {
        "top1": 100.0 * right1 / samples,
        "top5": 100.0 * right5 / samples,
        "loss": loss / samples,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
    }
    return {**result, "without_answer": int(without_answer)} if without_answer else result


def crop_ratio(dataset: ImageDataset) -> Any:
    """Returns the crop ratio of a set's evaluation view, or None where nothing crops."""
    ratios = [stated(transform, Transform, "crop_ratio") for transform in dataset.transforms]
    return next((ratio for ratio in reversed(ratios) if ratio is not None), None)
