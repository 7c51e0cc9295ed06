"""Engine: the training loop, the evaluation loop, checkpoints."""

from passl.engine.evaluator import evaluate
from passl.engine.trainer import train

__all__ = ["evaluate", "train"]
