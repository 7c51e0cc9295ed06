"""The evaluation loop: Top-1, Top-5 and loss over exactly the samples of a set."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict

import paddle
from tqdm import tqdm

from passl.datasets import EvaluationBatches, ImageDataset, Loader
from passl.engine.metrics import label_ranks
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.logging import interactive


def evaluation_loader(dataset: ImageDataset, section: Config) -> Loader:
    """Returns a loader that yields every sample of ``dataset`` once.

    Args:
        dataset: the set.
        section: ``dataloader.val`` or ``.test`` of a config.
    """
    return Loader(
        dataset,
        EvaluationBatches(len(dataset), section.sampler.batch_size),
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
) -> Dict[str, Any]:
    """Evaluates a classifier.

    Args:
        architecture: gives ``logits`` ``[N, K]`` and ``loss``, the mean over the batch.
        loader: batches with ``image`` and ``label``.
        name: what the progress bar says.
        stop: asked before every batch; a true answer abandons the evaluation.

    Returns:
        ``top1`` and ``top5`` in percent (with fewer than five classes, ``top5`` is Top-K of
        all of them), ``loss``, ``samples``, ``seconds`` and ``images_per_second``; an empty
        dict when it was abandoned.
    """
    was_training = architecture.training
    architecture.eval()
    samples = 0
    correct1 = correct5 = paddle.zeros([], dtype="int64")
    # float64 does not lose small terms over a million images; its cost is one addition a batch.
    loss_sum = paddle.zeros([], dtype="float64")
    started = time.perf_counter()
    try:
        with paddle.no_grad(), tqdm(
            total=len(loader.dataset), desc=name, unit="image", leave=False,
            disable=not interactive(),
        ) as bar:  # fmt: skip
            for batch in loader:
                if stop():
                    return {}
                outputs = architecture(batch)
                ranks = label_ranks(outputs["logits"], batch["label"])
                correct1 = correct1 + (ranks < 1).sum()
                correct5 = correct5 + (ranks < 5).sum()
                count = batch["label"].shape[0]
                loss_sum = loss_sum + outputs["loss"].astype("float64") * count
                samples += count
                bar.update(count)
    finally:
        if was_training:
            architecture.train()
    seconds = time.perf_counter() - started
    return {
        "top1": 100.0 * int(correct1) / samples,
        "top5": 100.0 * int(correct5) / samples,
        "loss": float(loss_sum) / samples,
        "samples": samples,
        "seconds": seconds,
        "images_per_second": samples / seconds,
    }


def crop_ratio(dataset: ImageDataset) -> Any:
    """Returns the crop ratio of a set's evaluation view, or None where nothing crops."""
    ratios = [t.crop_ratio for t in dataset.transforms if hasattr(t, "crop_ratio")]
    return ratios[-1] if ratios else None
