"""Feature maps of a network that has blocks, and no stages: which of them end one."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import paddle
from paddle import nn

from passl.utils.errors import PasslError


def stage_ends(stage_blocks: Optional[Sequence[int]], num_blocks: int) -> Tuple[int, ...]:
    """Returns after which blocks, counted from 1, a network without stages gives its maps.

    Args:
        stage_blocks: as asked for; None: after a quarter, half, three quarters and all of them, as
            detectors take those of a ViT.
        num_blocks: how many there are.

    Raises:
        PasslError: numbers that do not rise, or are none of a block.
    """
    if stage_blocks is None:
        return tuple(sorted({max(num_blocks * quarter // 4, 1) for quarter in range(1, 5)}))
    ends = tuple(stage_blocks)
    if not ends or list(ends) != sorted(set(ends)) or ends[0] < 1 or ends[-1] > num_blocks:
        raise PasslError(
            f"stage_blocks are rising numbers from 1 to {num_blocks}, not {list(stage_blocks)}"
        )
    return ends


def stage_maps(
    blocks: Sequence[nn.Layer],
    tokens: paddle.Tensor,
    ends: Sequence[int],
    grid: Tuple[int, int],
    before: int = 0,
) -> List[paddle.Tensor]:
    """Returns maps of the patches after some of the blocks, ``[N, C, H_p, W_p]`` each.

    Args:
        blocks: of the network, one after the other.
        tokens: what the first one takes, ``[N, before + H_p·W_p, C]``.
        ends: after which blocks, counted from 1.
        grid: H_p and W_p, height and width in patches.
        before: tokens before the patches.
    """
    maps = []
    for i, block in enumerate(blocks):
        tokens = block(tokens)
        if i + 1 in ends:
            patches = tokens[:, before:].transpose([0, 2, 1])
            maps.append(patches.reshape([-1, patches.shape[1], *grid]))
    return maps
