"""Putting arrays into a network, with every tensor accounted for."""

from __future__ import annotations

from typing import Dict, List

import numpy as np
import paddle
from paddle import nn

from passl.utils.errors import PasslError


def load_weights(model: nn.Layer, arrays: Dict[str, np.ndarray], source: str) -> None:
    """Sets all parameters and buffers of ``model``; the names and shapes must be the same.

    Args:
        model: the network.
        arrays: name to array.
        source: what to call the arrays' origin in an error, a path.

    Raises:
        PasslError: names that are missing, unexpected, or of another shape; the network is then
            unchanged.
    """
    own = model.state_dict()
    problems: List[str] = []
    for name in sorted(set(own) | set(arrays)):
        if name not in arrays:
            problems.append(f"missing {name}")
        elif name not in own:
            problems.append(f"unexpected {name}")
        elif list(arrays[name].shape) != list(own[name].shape):
            problems.append(
                f"{name} has shape {list(arrays[name].shape)}, "
                f"the model's has {list(own[name].shape)}"
            )
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise PasslError(
            f"{source}: does not fit the config's model: {'; '.join(problems[:5])}{more}"
        )
    for name, tensor in own.items():
        tensor.set_value(paddle.to_tensor(arrays[name], dtype=tensor.dtype))
