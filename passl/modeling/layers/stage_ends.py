"""Which blocks of a plain network end a stage."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

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
