"""Top-1, Top-5 and loss over exactly the samples of a set."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import paddle

from passl.datasets import Loader
from passl.evaluation.base import Evaluation, Evaluator, Figure
from passl.evaluation.metrics import NO_ANSWER, label_ranks
from passl.evaluation.registry import EVALUATORS
from passl.utils.records import Record


@EVALUATORS.register
class Classification(Evaluator):
    """Top-1 and Top-5 accuracy in percent, and the mean loss.

    The architecture gives ``logits`` ``[N, K]`` and, where it can, ``loss``, the mean over the
    batch; the set has a ``label`` of each image. The largest logits count, whatever the loss
    makes of them: of a softmax or of independent sigmoids. With fewer than five classes Top-5 is
    Top-K of all of them. A record has ``without_answer`` where there are any: the images whose
    logits are not finite, which count as wrong.
    """

    figures = {
        "top1": Figure("Top-1", "{:.2f} %"),
        "top5": Figure("Top-5", "{:.2f} %"),
        "loss": Figure("loss", "{:.4f}"),
    }
    classifies = True

    def measure(
        self, evaluation: Evaluation, loader: Loader, also: Mapping[str, Loader]
    ) -> Dict[str, Any]:
        samples = losses = 0
        correct1 = correct5 = unanswered = paddle.zeros([], dtype="int64")
        # float64 does not lose small terms over a million images; it costs one addition a batch.
        loss_sum = paddle.zeros([], dtype="float64")
        for outputs, batch in evaluation.outputs(loader):
            ranks = label_ranks(outputs["logits"], batch["label"])
            correct1 = correct1 + (ranks < 1).sum()
            correct5 = correct5 + (ranks < 5).sum()
            unanswered = unanswered + (ranks == NO_ANSWER).sum()
            count = batch["label"].shape[0]
            samples += count
            if "loss" in outputs:
                loss_sum = loss_sum + outputs["loss"].astype("float64") * count
                losses += count
        # Counts are whole numbers, which float64 adds up exactly.
        right1, right5, without_answer, loss, samples, losses = evaluation.sum(
            [int(correct1), int(correct5), int(unanswered), float(loss_sum), samples, losses]
        )
        result = {"top1": 100.0 * right1 / samples, "top5": 100.0 * right5 / samples}
        if losses:
            result["loss"] = loss / losses
        return {**result, "without_answer": int(without_answer)} if without_answer else result

    def problem(self, record: Record) -> Optional[str]:
        if "without_answer" not in record:
            return None
        return (
            f"the logits of {record['without_answer']} of {record['samples']} images are not "
            "finite (NaN or infinity), so they have no answer; take other weights"
        )
