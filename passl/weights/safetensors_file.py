"""Tensor files: safetensors, which hold arrays and text and can run nothing.

The format is chosen over Paddle's own ``.pdparams``, which is a pickle: loading one runs
whatever it says.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, List, Union

import numpy as np
import safetensors
import safetensors.numpy

from passl.utils.errors import PasslError

PathLike = Union[str, os.PathLike]
_METADATA_KEY = "passl"


class TensorFile:
    """A safetensors file open for reading, one tensor at a time.

    Args:
        path: the file.

    Attributes:
        metadata: what ``write_tensor_file`` was given, or ``{}`` for files of others.

    Raises:
        PasslError: the file is missing, damaged, or of another format.
    """

    def __init__(self, path: PathLike):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise PasslError(f"{self.path}: there is no such file")
        try:
            self._file = safetensors.safe_open(self.path, framework="numpy")
            text = (self._file.metadata() or {}).get(_METADATA_KEY, "{}")
            self.metadata: Dict[str, Any] = json.loads(text)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise PasslError(
                f"{self.path}: is damaged, or is not a safetensors file ({error})"
            ) from None

    def names(self) -> List[str]:
        """Returns the names of all tensors."""
        return list(self._file.keys())

    def read(self, prefix: str = "") -> Dict[str, np.ndarray]:
        """Returns the tensors whose names start with ``prefix``, without it."""
        return dict(self._items(prefix))

    def _items(self, prefix: str) -> Iterator[Any]:
        for name in self.names():
            if name.startswith(prefix):
                try:
                    yield name[len(prefix) :], self._file.get_tensor(name)
                except (OSError, ValueError, safetensors.SafetensorError) as error:
                    raise PasslError(f"{self.path}: '{name}' cannot be read ({error})") from None


def write_tensor_file(
    path: PathLike, tensors: Dict[str, np.ndarray], metadata: Dict[str, Any]
) -> None:
    """Writes arrays and JSON-able metadata to a file and waits until they are on the disk.

    Raises:
        PasslError: the file could not be written whole; nothing is left of it.
    """
    path = os.fspath(path)
    try:
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            path,
            metadata={_METADATA_KEY: json.dumps(metadata)},
        )
        # The library makes files that nobody else can read; these follow the user's umask.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(path, 0o666 & ~umask)
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    except (OSError, safetensors.SafetensorError) as error:
        if os.path.exists(path):
            os.unlink(path)
        raise PasslError(f"{path}: could not be written ({error}); is the disk full?") from None
