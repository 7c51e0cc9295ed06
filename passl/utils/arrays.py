"""Tensors as NumPy arrays that are to be kept."""

from __future__ import annotations

import numpy as np
import paddle


def own_array(tensor: paddle.Tensor) -> np.ndarray:
    """Returns a tensor's numbers in memory of their own size.

    ``Tensor.numpy()`` copies, and keeps, the whole storage that a tensor lies in. Group-sharded
    training lays all parameters of a process into one: a copy of each would take the memory of the
    network once for every parameter.
    """
    return tensor.detach().clone().numpy()
