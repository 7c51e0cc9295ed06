"""safetensors: arrays and text, and nothing that could run.

Checkpoints are written in this format rather than as Paddle's own ``.pdparams``, which is a
pickle: loading one runs whatever it says. The safetensors library checks a file; the numbers are
read and written here, because its NumPy side knows no bfloat16 and holds every tensor in memory
at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from typing import Any, BinaryIO, Dict, Mapping, Optional

import numpy as np
import safetensors

from passl.utils.stored_array import BFLOAT16, DamagedFile, StoredArray, Window
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error
from passl.utils.text import as_text
from passl.weights.formats.contents import Contents

_METADATA_KEY = "passl"
# Parsed, a header can take thirty times its length of memory. The class names of ImageNet-21k are
# a tenth of this.
_LONGEST_HEADER = 1 << 23
_DTYPES = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("i8"),
    "I32": np.dtype("i4"),
    "I16": np.dtype("i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("u8"),
    "U32": np.dtype("u4"),
    "U16": np.dtype("u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def read(path: str, file: BinaryIO, size: int) -> Contents:
    """Reads the names, shapes and types of all tensors, and the metadata.

    Args:
        path: the file.
        file: the same, open; the tensors are read from it later.
        size: its length in bytes.
    """
    window = Window(file, 0, size)
    (length,) = struct.unpack("<Q", window.read(8))
    if length > _LONGEST_HEADER:
        raise DamagedFile("its header is too long to be a description of weights")
    # Refuses tensors that overlap or leave holes.
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except FileNotFoundError:  # it says so of every file that it cannot open
        open(path, "rb").close()
        raise
    header = json.loads(window.read(length))
    labels = header.pop("__metadata__", None) or {}
    metadata = json.loads(labels.get(_METADATA_KEY, "{}"))
    if not isinstance(metadata, dict):
        raise DamagedFile("what it records beside the tensors is not a mapping")
    classes = metadata.get("class_names") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DamagedFile("its class names are no names")
    if classes:  # a file of before they were made text when the data is read
        metadata["class_names"] = [as_text(name) for name in classes]
    groups: Dict[str, Dict[str, StoredArray]] = {}
    for name, entry in header.items():
        # A checkpoint holds tensors of several kinds: model/…, optimizer/….
        kind, _, rest = name.partition("/")
        group, own = (kind, rest) if metadata.get("kind") == "training" else ("", name)
        groups.setdefault(group, {})[own] = _array(window, 8 + length, entry)
    # Without any label a file is taken for one of the torch world, where most are from.
    foreign = labels.get("format", "pd" if _METADATA_KEY in labels else "pt") == "pt"
    return Contents(groups, "torch" if foreign else "paddle", metadata=metadata)


def _array(window: Window, start: int, entry: Dict[str, Any]) -> StoredArray:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise DamagedFile(f"it holds numbers of the type {entry['dtype']}")
    begin, end = entry["data_offsets"]

    def read() -> np.ndarray:
        data = window.read_at(start + begin, end - begin)
        return np.frombuffer(data, dtype).reshape(stored.shape)

    stored = StoredArray(entry["shape"], dtype, read)
    if end - begin != stored.nbytes:
        raise DamagedFile("a tensor has more or fewer numbers than its shape says")
    return stored


def write(
    path: str, tensors: Mapping[str, np.ndarray], labels: Optional[Mapping[str, str]] = None
) -> None:
    """Writes arrays and text labels, and waits until they are on the disk."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    header: Dict[str, Any] = {"__metadata__": dict(labels or {})}
    end = 0
    for name, array in tensors.items():
        if array.dtype not in names:
            raise DamagedFile(f"safetensors has no tensors of the type {array.dtype}")
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the format's alignment
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def own_labels(metadata: Mapping[str, Any]) -> Dict[str, str]:
    """Returns the labels that make a file one of PASSL's own."""
    return {_METADATA_KEY: to_json(metadata, names_come_back=True)}


def write_tensor_file(
    path: os.PathLike, tensors: Mapping[str, np.ndarray], metadata: Dict[str, Any]
) -> None:
    """Writes arrays and JSON-able metadata to a file of PASSL's own.

    Raises:
        PasslError: the file could not be written whole; nothing is left of it.
    """
    try:
        write(os.fspath(path), tensors, own_labels(metadata))
    except OSError as error:
        explained = explain_os_error(error, path)  # as long as what was written fills the disk
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise explained from None
