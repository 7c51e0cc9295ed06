"""Tensors as NumPy arrays that are to be kept, or recognised."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np
import paddle


def own_array(tensor: paddle.Tensor) -> np.ndarray:
    """Returns a tensor's numbers in memory of their own size.

    ``Tensor.numpy()`` copies, and keeps, the whole storage that a tensor lies in. Group-sharded
    training lays all parameters of a process into one: a copy of each would take the memory of the
    network once for every parameter.
    """
    return tensor.detach().clone().numpy()


def add_arrays(digest: Any, tensors: Mapping[str, paddle.Tensor]) -> None:
    """Adds every number of named tensors to a digest of ``hashlib``, with names, types and shapes.

    In the order of the names.
    """
    for name, tensor in sorted(tensors.items()):
        array = np.ascontiguousarray(tensor.numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
