"""Small pieces that several backbones share."""

from passl.modeling.layers.attention import (
    Attention,
    attend,
    check_heads,
    join_heads,
    split_heads,
)
from passl.modeling.layers.batch_norm import (
    BatchNorm1D,
    BatchNorm2D,
    has_batch_norms,
    has_sync_batch_norms,
    split_batch_norms,
    sync_batch_norms,
)
from passl.modeling.layers.checks import check_drop_rate, check_image_size, check_input, check_sizes
from passl.modeling.layers.columns import column_depths
from passl.modeling.layers.conv_norm import ConvNorm
from passl.modeling.layers.dense import (
    GELU,
    Conv2D,
    DepthwiseConv2D,
    LayerNorm,
    Linear,
    QuickGELU,
)
from passl.modeling.layers.depths import staged_depths
from passl.modeling.layers.drop_path import DropPath, drop_path_rates
from passl.modeling.layers.freezing import freeze, keep_frozen
from passl.modeling.layers.initializers import (
    lecun_normal_,
    normal_,
    ones_,
    torch_default_,
    truncated_normal_,
    uniform_,
    zeros_,
)
from passl.modeling.layers.mlp import Mlp
from passl.modeling.layers.patch_embed import PatchEmbed, to_pair
from passl.modeling.layers.position_grids import resized_grid, resized_positions
from passl.modeling.layers.sincos_positions import sincos_positions
from passl.modeling.layers.stage_ends import stage_ends, stage_maps
from passl.modeling.layers.transformer_block import TransformerBlock
from passl.modeling.layers.weighted_branches import WeightedBranches

__all__ = [
    "Attention",
    "BatchNorm1D",
    "BatchNorm2D",
    "Conv2D",
    "ConvNorm",
    "DepthwiseConv2D",
    "DropPath",
    "GELU",
    "LayerNorm",
    "Linear",
    "Mlp",
    "PatchEmbed",
    "QuickGELU",
    "TransformerBlock",
    "WeightedBranches",
    "attend",
    "check_drop_rate",
    "check_heads",
    "check_image_size",
    "check_input",
    "check_sizes",
    "column_depths",
    "drop_path_rates",
    "freeze",
    "has_batch_norms",
    "has_sync_batch_norms",
    "join_heads",
    "keep_frozen",
    "lecun_normal_",
    "normal_",
    "ones_",
    "resized_grid",
    "resized_positions",
    "sincos_positions",
    "split_batch_norms",
    "split_heads",
    "stage_ends",
    "stage_maps",
    "staged_depths",
    "sync_batch_norms",
    "to_pair",
    "torch_default_",
    "truncated_normal_",
    "uniform_",
    "zeros_",
]
