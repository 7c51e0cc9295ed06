"""Captions as ids, for architectures that learn from pairs."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import numpy as np

from passl.datasets.registry import TRANSFORMS
from passl.datasets.transforms.base import Transform
from passl.tokenization import build_tokenizer
from passl.utils.errors import PasslError


@TRANSFORMS.register
class Tokenize(Transform):
    """Puts the ids of a caption into the sample: ``text``, int64 ``[context]``.

    Args:
        context: ids of a text, start and end included; as the text tower's.
        tokenizer: config of the tokenizer; CLIP's by default.
        random: whether one of several captions is drawn; otherwise the first one is taken.
    """

    def __init__(
        self,
        context: int = 77,
        tokenizer: Optional[Mapping[str, Any]] = None,
        random: bool = True,
    ):
        self.tokenizer = build_tokenizer(tokenizer)
        self.tokenizer([""], context)  # refuses a context that is none
        self.context, self.random = context, random

    def __call__(self, sample: Dict[str, Any], rng: np.random.Generator) -> Dict[str, Any]:
        if "captions" not in sample:
            raise PasslError(
                "Tokenize needs captions, which this data set has not; take ImageTextFolder, "
                "ImageTextList, ImageTextShards or CocoCaptions, or leave it out"
            )
        captions = sample["captions"]
        chosen = captions[rng.integers(len(captions)) if self.random else 0]
        ids, _ = self.tokenizer([chosen], self.context)
        rest = {name: value for name, value in sample.items() if name != "captions"}
        return {**rest, "text": ids[0]}
