"""Architectures: a backbone and heads joined into something the engine can train.

An architecture is all that the engine knows of a model: ``architecture(batch)`` returns a
dict with ``loss`` (where the batch has targets) and ``logits``, and ``before_step`` and
``after_step`` surround every optimizer step.
"""

from __future__ import annotations

from typing import Any, Mapping

from passl.modeling.architectures.base import Architecture
from passl.modeling.architectures.registry import ARCHITECTURES
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_architecture(cfg: Mapping[str, Any]) -> Architecture:
    """Builds the model section of a config; without a ``name`` it is a plain classifier."""
    return ARCHITECTURES.build(cfg, default="Classifier")


__all__ = ["ARCHITECTURES", "Architecture", "build_architecture"]
