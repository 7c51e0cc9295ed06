"""Backbones: one file, one paper. A new file here registers itself.

A backbone is built from keyword arguments alone and has

- ``num_features``, the size of what ``forward`` returns,
- ``forward(x) -> features``, pooled, ``[N, num_features]``,
- ``forward_features(x)``, the features before pooling (the shape is in its docstring),
- ``no_weight_decay``, the names of parameters that never decay besides biases and norms,
- ``parameter_depths``, how deep each parameter lies, for layer-wise learning rates.

A hierarchical one also has ``forward_stages(x)``, a list of feature maps ``[N, C_i, H_i, W_i]``,
with ``stage_channels`` and ``stage_strides``.
"""

from __future__ import annotations

from typing import Any, Mapping

from passl.modeling.backbones.registry import BACKBONES
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_backbone(cfg: Mapping[str, Any]):
    """Builds the backbone that ``cfg`` (``name`` and keyword arguments) describes."""
    return BACKBONES.build(cfg)


__all__ = ["BACKBONES", "build_backbone"]
