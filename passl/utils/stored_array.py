"""Arrays that are still in their file: shape and type are known, numbers are read on demand."""

from __future__ import annotations

import math
from typing import Any, BinaryIO, Callable, Sequence, Tuple

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

_LARGEST_DIMENSION = 2**40
_MOST_AXES = 16


class DamagedFile(ValueError):
    """What a reader of hostile or damaged files raises; the file's opener adds the path."""


class StoredArray:
    """An array in a file.

    Args:
        shape: axis lengths, as the file states them.
        dtype: NumPy's, or ``BFLOAT16``.
        read: returns the array, with this shape and dtype.

    Raises:
        DamagedFile: the shape is absurd.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype, read: Callable[[], np.ndarray]):
        self.shape = checked_shape(shape)
        self.dtype = dtype
        self._read = read

    @property
    def nbytes(self) -> int:
        """Size of the numbers, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Reads the numbers; the array may be read-only."""
        return self._read()

    def transposed(self, axes: Sequence[int]) -> StoredArray:
        """Returns this array with its axes permuted, still unread."""
        shape = [self.shape[axis] for axis in axes]
        return StoredArray(shape, self.dtype, lambda: self._read().transpose(axes))

    def reshaped(self, shape: Sequence[int]) -> StoredArray:
        """Returns this array with other axes around the same numbers, still unread."""
        assert math.prod(shape) == math.prod(self.shape), f"{self.shape} cannot be {shape}"
        return StoredArray(shape, self.dtype, lambda: self._read().reshape(shape))


def checked_shape(shape: Sequence[Any]) -> Tuple[int, ...]:
    """Returns a shape as a tuple of ints, or raises DamagedFile where it cannot be one."""
    if (
        not isinstance(shape, (tuple, list))
        or len(shape) > _MOST_AXES
        or not all(type(n) is int and 0 <= n <= _LARGEST_DIMENSION for n in shape)
        or math.prod(shape) > _LARGEST_DIMENSION
    ):
        raise DamagedFile("it states a shape that no array has")
    return tuple(shape)


class Window:
    """A stretch of a file, read from front to back and never beyond its end.

    Args:
        file: seekable, and moved by nobody else between two reads from front to back.
        start: where the stretch begins in the file, in bytes.
        size: its length, in bytes.
    """

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self.size = file, start, size
        self.position = 0
        file.seek(start)

    def read(self, count: int) -> bytes:
        """Returns exactly the next ``count`` bytes."""
        self._advance(count)
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedFile("it ends too early")
        return data

    def readline(self) -> bytes:
        """Returns the rest of a line, of at most 64 KiB with its end."""
        line = self._file.readline(min(self.size - self.position, 1 << 16))
        if not line.endswith(b"\n"):
            raise DamagedFile("it holds a line without an end")
        self.position += len(line)
        return line

    def skip(self, count: int) -> int:
        """Passes over ``count`` bytes and returns where they begin, for ``read_at``."""
        begin = self.position
        self._advance(count)
        self._file.seek(count, 1)
        return begin

    def read_at(self, begin: int, count: int) -> bytes:
        """Returns ``count`` bytes from ``begin``; ends the reading from front to back."""
        if begin < 0 or count < 0 or begin + count > self.size:
            raise DamagedFile("it ends too early")
        self._file.seek(self._start + begin)
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedFile("it ends too early")
        return data

    def _advance(self, count: int) -> None:
        if count < 0 or count > self.size - self.position:
            raise DamagedFile("it ends too early")
        self.position += count
