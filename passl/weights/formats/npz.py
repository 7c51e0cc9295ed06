"""NumPy's ``.npz``, as Flax code saves it."""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO, Dict, Mapping, Tuple

import numpy as np

from passl.utils.stored_array import BFLOAT16, DamagedFile, StoredArray, checked_shape
from passl.weights.formats.contents import Contents

# Where Flax training states keep the network.
NETWORKS = ("params", "opt/target", "target")
_LONGEST_HEADER = 1 << 12
_HEADER = re.compile(
    r"{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),"
    r"\s*'shape':\s*\(([\dL, ]*)\),?\s*}\s*"
)


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
    """Returns shape, whether columns come first, type, and the length of the header.

    NumPy's own reader reads headers of any length, and has Python parse them.
    """
    head = member.read(_LONGEST_HEADER)
    begin = {b"\x93NUMPY\1": 10, b"\x93NUMPY\2": 12}.get(head[:7], 0)
    end = begin + int.from_bytes(head[8:begin], "little")
    fields = _HEADER.fullmatch(head[begin:end].decode("latin-1"))
    if not begin or end > len(head) or fields is None:
        raise DamagedFile("it holds an array of records, or one whose header is not NumPy's")
    code, order, shape = fields.groups()
    if code == "|O":
        raise DamagedFile("it holds an array of Python objects, which only a pickle can read")
    if code in ("|V2", "<V2"):
        dtype = BFLOAT16  # NumPy writes bfloat16 as two nameless bytes
    elif re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
        dtype = np.dtype(code)
    else:
        raise DamagedFile(f"it holds an array of NumPy type '{code[:20]}', not of numbers")
    # Python 2 wrote long integers with an L.
    axes = [int(axis.strip().rstrip("L")) for axis in shape.split(",") if axis.strip()]
    return checked_shape(axes), order == "True", dtype, end


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under their names, not compressed."""
    with open(path, "wb") as file:  # numpy would append a suffix to a path
        np.savez(file, **tensors)
