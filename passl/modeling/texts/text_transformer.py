"""The text tower of CLIP: a transformer in which a word sees those before it.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv
2103.00020, section 2.4; the authors' code is github.com/openai/CLIP, clip/model.py.

Legend for shapes: N texts, L ids of each, C channels.
"""

from __future__ import annotations

from typing import Callable, Dict, FrozenSet, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn

from passl.modeling.layers import (
    DropPath,
    LayerNorm,
    QuickGELU,
    TransformerBlock,
    check_heads,
    check_sizes,
    column_depths,
    normal_,
    torch_default_,
    zeros_,
)
from passl.modeling.layers.position_grids import resized_grid
from passl.modeling.texts.registry import TEXTS
from passl.utils.errors import PasslError
from passl.utils.widened import widened


@TEXTS.register
class TextTransformer(nn.Layer):
    """CLIP's text tower before its projection.

    Features are those of the first id ``end`` after the last norm: what the text is up to there.
    What stands behind it changes nothing, so that texts may be cut to the longest of them.

    Args:
        context: the most ids of a text.
        vocabulary: how many ids there are.
        embed_dim: C.
        num_blocks: transformer blocks.
        num_heads: of the attention; divides C.
        mlp_ratio: width of the MLPs, in units of C.
        quick_gelu: x σ(1.702 x) in GELU's place, as of the image tower.
        end: the id that ends a text; by default the last one.

    Shape:
        input: int64 ``[N, L]``; output: ``[N, C]``.

    Attributes:
        num_features: C.

    Raises:
        PasslError: sizes that do not fit together, or longer texts.
    """

    def __init__(
        self,
        context: int = 77,
        vocabulary: int = 49_408,
        embed_dim: int = 512,
        num_blocks: int = 12,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        quick_gelu: bool = False,
        end: Optional[int] = None,
    ):
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        check_sizes(vocabulary=vocabulary, embed_dim=embed_dim, num_blocks=num_blocks)
        check_sizes(3, context=context)
        check_heads(embed_dim, num_heads)
        self.context, self.vocabulary, self.num_features = context, vocabulary, embed_dim
        self.end = vocabulary - 1 if end is None else end
        self.quick_gelu = quick_gelu
        self.token_embed = nn.Embedding(vocabulary, embed_dim)
        self.pos_embed = self.create_parameter([context, embed_dim])
        self.blocks = nn.LayerList(
            [
                TransformerBlock(
                    embed_dim,
                    num_heads,
                    hidden,
                    DropPath(0.0),
                    epsilon=1e-5,
                    act=QuickGELU() if quick_gelu else None,
                )
                for _ in range(num_blocks)
            ]
        )
        self.norm = LayerNorm(embed_dim, epsilon=1e-5)
        self._initialize()

    def _initialize(self) -> None:
        # clip/model.py, CLIP.initialize_parameters; what that leaves out is torch's own.
        normal_(self.token_embed.weight, std=0.02)
        normal_(self.pos_embed, std=0.01)
        width, depth = self.num_features, len(self.blocks)
        inner, outer = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
        for block in self.blocks:
            for layer, std in (
                (block.attn.qkv, inner),
                (block.attn.proj, outer),
                (block.mlp.fc1, (2 * width) ** -0.5),
                (block.mlp.fc2, outer),
            ):
                torch_default_(layer)  # for the biases
                normal_(layer.weight, std=std)
            zeros_(block.attn.qkv.bias)
            zeros_(block.attn.proj.bias)

    def adapt_weight(
        self, name: str, shape: Sequence[int], publisher: str
    ) -> Optional[Tuple[Callable[[np.ndarray], np.ndarray], str]]:
        """Says how released positions for texts of another length become this network's.

        Args: and Returns: see ``VisionTransformer.adapt_weight``. It is done as open_clip does it,
        linearly.
        """
        if name != "pos_embed" or len(shape) != 2 or shape[1] != self.num_features:
            return None

        def resize(array: np.ndarray) -> np.ndarray:
            return resized_grid(array[:, None], (self.context, 1), "bilinear")[:, 0]

        return resize, f"positions of {shape[0]} ids resized to {self.context} (linear)"

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, see ``column_depths``; embeddings are the first layer."""
        return column_depths(self, ("token_embed", "pos_embed"))

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def forward(self, ids: paddle.Tensor) -> paddle.Tensor:
        count, length = ids.shape
        if length > self.context:
            raise PasslError(
                f"texts have {length} ids, the text tower takes {self.context}; set the context of "
                f"Tokenize to {self.context}, or build the tower with context={length}"
            )
        x = self.token_embed(ids)
        x = x + self.pos_embed[:length].astype(x.dtype)
        mask = paddle.triu(paddle.full([length, length], -np.inf, widened(x).dtype), 1)
        for block in self.blocks:
            x = block(x, mask)
        # Among whole numbers: in 16 bits two ids may be one.
        ends = (ids == self.end).astype("int64").argmax(axis=1)
        x = paddle.gather_nd(x, paddle.stack([paddle.arange(count), ends], axis=1))
        return self.norm(x)
