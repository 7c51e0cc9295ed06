"""NumPy's ``.npz``, as Flax code saves it."""

from __future__ import annotations

import io
import zipfile
from typing import BinaryIO, Dict, Mapping, Tuple

import numpy as np
from numpy.lib import format as npy

from passl.utils.stored_array import BFLOAT16, DamagedFile, StoredArray, checked_shape
from passl.weights.formats.contents import Contents

# Where Flax training states keep the network.
NETWORKS = ("params", "opt/target", "target")
_LONGEST_HEADER = 1 << 12


def is_npz(names: list) -> bool:
    """Tells ``.npz`` files from other zip files by the names of their members."""
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(archive: zipfile.ZipFile) -> Contents:
    """Reads the names, shapes and types of all arrays.

    Args:
        archive: the open file; the arrays are read from it later.
    """
    arrays = {info.filename[: -len(".npy")]: _array(archive, info) for info in archive.infolist()}
    network = next((n for n in NETWORKS if any(name.startswith(n + "/") for name in arrays)), None)
    if network is None:
        return Contents({"": arrays}, "flax")
    groups: Dict[str, Dict[str, StoredArray]] = {}
    for name, array in arrays.items():
        group = network if name.startswith(network + "/") else name.partition("/")[0]
        groups.setdefault(group, {})[name[len(group) + 1 :]] = array
    return Contents(groups, "flax")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> StoredArray:
    with archive.open(info) as file:
        shape, fortran, dtype, begin = _header(file)
    if info.file_size != begin + int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise DamagedFile("an array has more or fewer numbers than its shape says")

    def read() -> np.ndarray:
        with archive.open(info) as file:
            file.read(begin)
            data = file.read(info.file_size - begin)
            file.read(1)  # the end: the checksum is compared
        if len(data) != info.file_size - begin:
            raise DamagedFile("it ends too early")
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="), copy=False)

    return StoredArray(shape, dtype.newbyteorder("="), read)


def _header(member: BinaryIO) -> Tuple[Tuple[int, ...], bool, np.dtype, int]:
    """Returns shape, whether columns come first, type, and the length of the header."""
    # NumPy would read a header of any length; packed, zeros take no room in the file.
    file = io.BytesIO(member.read(_LONGEST_HEADER))
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DamagedFile("it holds an array of records")
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise DamagedFile("it holds an array of Python objects, which only a pickle can read")
    if dtype.str == "|V2" and dtype.names is None and dtype.subdtype is None:
        dtype = BFLOAT16  # NumPy writes bfloat16 as two nameless bytes
    elif dtype.kind not in "fiub":
        raise DamagedFile(f"it holds an array of NumPy type '{dtype.str[:20]}', not of numbers")
    return checked_shape(tuple(shape)), fortran, dtype, file.tell()


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under their names, not compressed."""
    with open(path, "wb") as file:  # numpy would append a suffix to a path
        np.savez(file, **tensors)
