"""Text into numbers, for the text towers and for the data that trains them."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from passl.tokenization.byte_pairs import CLIPTokenizer
from passl.tokenization.padding import without_padding
from passl.tokenization.registry import TOKENIZERS
from passl.utils.discovery import import_modules

import_modules(__name__, __path__)


def build_tokenizer(cfg: Optional[Mapping[str, Any]] = None) -> Any:
    """Builds the tokenizer that a config describes; CLIP's where it names none.

    What a tokenizer of one's own has to have is what ``CLIPTokenizer`` has: ``size``, ``encode``,
    ``decode``, and the call.
    """
    return TOKENIZERS.build(cfg or {}, default="CLIPTokenizer")


__all__ = ["TOKENIZERS", "CLIPTokenizer", "build_tokenizer", "without_padding"]
