"""Heads: what turns features into an answer, and its loss. A new file here registers itself.

A head is built from ``in_channels`` and its own arguments and has ``forward(features) ->
logits`` and ``loss(outputs, batch) -> scalar``.
"""

from __future__ import annotations

import functools
from typing import Any, Mapping, Optional

from passl.modeling.heads.deferred import DeferredHead
from passl.modeling.heads.registry import HEADS
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_head(cfg: Mapping[str, Any], default: Optional[str] = None, **context: Any):
    """Builds the head that ``cfg`` describes.

    Args:
        cfg: ``name`` and keyword arguments.
        default: the name to take where ``cfg`` has none.
        **context: what the architecture knows (``in_channels``), used where ``cfg`` is silent.
            Without ``in_channels`` the head is built when it is first called.
    """
    width = HEADS.arguments(cfg.get("name", default)).get("in_channels")
    if width is not None and width.needed and "in_channels" not in {**cfg, **context}:
        return DeferredHead(functools.partial(build_head, cfg, default, **context))
    return HEADS.build(cfg, default, **{k: v for k, v in context.items() if k not in cfg})


__all__ = ["HEADS", "build_head"]
