"""How good a network is: one file, one way to measure it. A new file here registers itself."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional

from passl.datasets import Loader
from passl.datasets.view import evaluated_section
from passl.distributed.processes import Processes
from passl.evaluation.base import ALONE, Evaluator, crop_ratio, evaluation_loader
from passl.evaluation.classification import Classification
from passl.evaluation.registry import EVALUATORS
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_evaluator(cfg: Optional[Mapping[str, Any]], architecture: Architecture) -> Evaluator:
    """Builds the evaluator that ``evaluate.evaluator`` describes, or the architecture's default."""
    return EVALUATORS.build(cfg or {}, default=architecture.evaluator)


def sections_also_read(cfg: Config, evaluator: Evaluator) -> Dict[str, Config]:
    """Returns the sections of ``dataloader`` that an evaluator needs beside the evaluated one.

    Without ``dataloader.bank`` the bank is the training images, as ``val`` sees its own.

    Raises:
        PasslError: a section is missing.
    """
    return {
        name: evaluated_section(cfg, "train" if cfg.dataloader[name] is None else name)
        for name in evaluator.also_reads
    }


def evaluate(
    architecture: Architecture,
    loader: Loader,
    name: str = "evaluate",
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
    look: Callable[[Dict[str, Any], Dict[str, Any]], None] = lambda outputs, batch: None,
) -> Dict[str, Any]:
    """Evaluates a classifier by the evaluator ``Classification``.

    Args:
        architecture, loader, name, stop, processes, look: see ``Evaluator.evaluate``.

    Returns:
        ``top1`` and ``top5`` in percent, ``loss``, ``samples``, ``seconds``, ``images_per_second``;
        an empty dict when it was abandoned.
    """
    return Classification().evaluate(
        architecture, loader, name=name, stop=stop, processes=processes, look=look
    )


__all__ = [
    "EVALUATORS",
    "Evaluator",
    "build_evaluator",
    "crop_ratio",
    "evaluate",
    "evaluation_loader",
    "sections_also_read",
]
