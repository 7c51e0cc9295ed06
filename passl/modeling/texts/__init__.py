"""Text towers: one file, one paper. A new file here registers itself.

A text tower is built from keyword arguments alone and has

- ``num_features``, the size of what ``forward`` returns,
- ``context``, the most ids of a text, and ``vocabulary``, how many ids there are,
- ``forward(ids) -> features``: int64 ``[N, L]`` with L up to ``context``, to ``[N, num_features]``,
- ``no_weight_decay`` and ``parameter_depths`` as backbones have.
"""

from __future__ import annotations

from typing import Any, Mapping

from passl.modeling.texts.registry import TEXTS
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_text(cfg: Mapping[str, Any]):
    """Builds the text tower that ``cfg`` describes; CLIP's where it names none."""
    return TEXTS.build(cfg, default="TextTransformer")


__all__ = ["TEXTS", "build_text"]
