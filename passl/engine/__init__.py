"""Engine: the training loop and its checkpoints."""

from passl.engine.trainer import train
from passl.evaluation import evaluate

__all__ = ["evaluate", "train"]
