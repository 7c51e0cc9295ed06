"""Engine: the training loop, the evaluation loop, checkpoints."""

from passl.engine.trainer import train
from passl.evaluation.evaluator import evaluate

__all__ = ["evaluate", "train"]
