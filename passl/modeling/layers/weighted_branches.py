"""Adding up branches with weights that the image itself gives."""

from __future__ import annotations

from typing import Sequence

import paddle
from paddle import nn

from passl.modeling.layers.functional import mean_over_positions, weighted_sum
from passl.modeling.layers.mlp import Mlp
from passl.utils.widened import widened


class WeightedBranches(nn.Layer):
    """The weighted sum of branches, with a weight for every image, branch and channel.

    The branches are added up and averaged over the positions, an MLP turns the mean into a number
    for each channel and branch, and a softmax over the branches into weights: the split attention
    of ResNeSt (Zhang et al., arXiv 2004.08955) as Vision Permutator uses it (arXiv 2106.12368;
    ``reweight`` of WeightedPermuteMLP in the authors' code), and CycleMLP after it.

    Args:
        channels: C, of every branch.
        branches: their number B.
        reduction: the MLP is C / ``reduction`` wide; 4 in the code of both.

    Shape:
        input: B tensors ``[N, H, W, C]``; output: ``[N, H, W, C]``.
    """

    def __init__(self, channels: int, branches: int = 3, reduction: int = 4):
        super().__init__()
        self.branches = branches
        self.mlp = Mlp(channels, channels // reduction, out_features=channels * branches)

    def forward(self, branches: Sequence[paddle.Tensor]):
        assert len(branches) == self.branches
        total = branches[0]
        for branch in branches[1:]:
            total = total + branch
        scores = self.mlp(mean_over_positions(total))
        # The branches of a channel lie side by side: [N, C, B], not [N, B, C].
        scores = scores.reshape([-1, total.shape[-1], self.branches])
        weights = nn.functional.softmax(widened(scores), axis=-1)
        return weighted_sum(branches, weights)
