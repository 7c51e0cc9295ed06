"""Files of ``paddle.save`` (``.pdparams``): a pickle with the arrays inside."""

from __future__ import annotations

import pickle
from typing import Any, BinaryIO, Callable, Dict, Mapping

import numpy as np

from passl.utils.pickles import PickledArray, Placeholder, Unpickler
from passl.utils.stored_array import BFLOAT16, StoredArray, Window
from passl.weights.formats.contents import Contents, sort_out


def _evaluated(text: Any, names: Any = None, *rest: Any) -> Any:
    """Paddle's pickle of a C++ tensor: eval('data', {'data': array}). Nothing is evaluated."""
    if text == "data" and isinstance(names, dict) and isinstance(names.get("data"), PickledArray):
        return names["data"]
    return Placeholder("builtins.eval")


_KNOWN: Dict[str, Callable[..., Any]] = {
    "builtins.eval": _evaluated,
    "__builtin__.eval": _evaluated,
}


def read(file: BinaryIO, size: int) -> Contents:
    """Reads a pickle of arrays: of Paddle, or of NumPy."""
    contents = sort_out(Unpickler(Window(file, 0, size), _KNOWN).load(), "paddle")
    contents.groups = {
        path: {name: _bfloat16(array) for name, array in group.items()}
        for path, group in contents.groups.items()
    }
    return contents


def _bfloat16(array: StoredArray) -> StoredArray:
    # Paddle writes bfloat16 as uint16, a type that parameters never have.
    if array.dtype != np.uint16:
        return array
    return StoredArray(array.shape, BFLOAT16, lambda: array.read().view(BFLOAT16))


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state_dict for ``paddle.load(path)``."""
    state: Dict[str, Any] = {
        name: array.view(np.uint16) if array.dtype == BFLOAT16 else np.asarray(array, order="C")
        for name, array in tensors.items()
    }
    with open(path, "wb") as file:
        pickle.dump(state, file, protocol=4)
