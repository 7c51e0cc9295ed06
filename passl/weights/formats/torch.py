"""Files of ``torch.save``, the zip format and the one before it, and TorchScript, without torch.

All are a pickle whose tensors refer to storages: runs of numbers that stand beside it. A program of
``torch.jit.save``, as OpenAI released CLIP, is of the zip format too. Its pickle is a tree of
objects, modules in modules, whose attributes are the tensors; of the program itself (``code/``,
``constants.pkl``) nothing is read, let alone run.
"""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
import struct
import zipfile
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from passl.utils.pickles import Instance, Known, Placeholder, Unpickler
from passl.utils.stored_array import BFLOAT16, DamagedFile, StoredArray, Window, checked_shape
from passl.weights.formats.contents import Contents, sort_out

_STORAGES = {
    "FloatStorage": np.dtype("f4"),
    "DoubleStorage": np.dtype("f8"),
    "HalfStorage": np.dtype("f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("i8"),
    "IntStorage": np.dtype("i4"),
    "ShortStorage": np.dtype("i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "UntypedStorage": np.dtype("u1"),
}
_DTYPES = {
    "float32": np.dtype("f4"),
    "float64": np.dtype("f8"),
    "float16": np.dtype("f2"),
    "bfloat16": BFLOAT16,
    "int64": np.dtype("i8"),
    "int32": np.dtype("i4"),
    "int16": np.dtype("i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
# Whose objects are a TorchScript program's modules; torch mangles what comes behind.
_MODULES = "__torch__."
_LISTS = "torch.jit._pickle."  # how it writes settings that are lists of numbers
_MOST_MODULES_DEEP = 64  # one in another; networks have ten
# What all their attributes' paths take together, in characters: one module can stand under many.
_LONGEST_PATHS = 1 << 24
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass
class _Storage:
    """A run of numbers; ``read(begin, count)`` gives bytes of it."""

    dtype: np.dtype
    count: int  # of numbers
    read: Callable[[int, int], bytes]
    swapped: bool = False  # stored in the other byte order


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *rest: Any, dtype: Optional[np.dtype] = None
) -> Any:
    if not isinstance(storage, _Storage):
        return storage  # a placeholder's tensor is that placeholder
    dtype = dtype or storage.dtype
    shape, steps = checked_shape(size), checked_shape(stride)
    count = storage.count * storage.dtype.itemsize // dtype.itemsize
    extent = 1 + sum((n - 1) * step for n, step in zip(shape, steps)) if all(shape) else 0
    if (
        len(shape) != len(steps)
        or type(offset) is not int
        or not 0 <= offset <= count - extent
        or math.prod(shape) > count  # a view that repeats numbers could state any size
    ):
        raise DamagedFile("a tensor reaches beyond its numbers")

    def read() -> np.ndarray:
        data = storage.read(offset * dtype.itemsize, extent * dtype.itemsize)
        flat = np.frombuffer(data, dtype)
        if storage.swapped:
            flat = flat.byteswap()
        strides = [step * dtype.itemsize for step in steps]
        return np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)

    return StoredArray(shape, dtype, read)


def _typed_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """``_rebuild_tensor_v3``: (…, requires_grad, hooks, dtype, metadata)."""
    name = getattr(rest[2], "name", "").rpartition(".")[2] if len(rest) > 2 else ""
    if name not in _DTYPES:
        return Placeholder(f"torch.{name}")
    return _tensor(storage, offset, size, stride, dtype=_DTYPES[name])


def _subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """``_rebuild_from_type_v2``: a tensor that has attributes, or is of a subclass."""
    plain = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
    if getattr(kind, "name", "") not in plain:
        return Placeholder(getattr(kind, "name", "a tensor of an unknown class"))
    if not isinstance(function, Known) or function.name not in _TENSORS:
        return Placeholder(getattr(function, "name", "a tensor of an unknown function"))
    return function.rebuild(*arguments)


_TENSORS: Dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *rest: data,
    "torch._utils._rebuild_device_tensor_from_numpy": lambda data, *rest: data,
    "torch._utils._rebuild_xla_tensor": lambda data, *rest: data,
}
_KNOWN: Dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.Size": lambda size: tuple(size),
}


def _storage_type(kind: Any) -> Optional[np.dtype]:
    return _STORAGES.get(getattr(kind, "name", "").rpartition(".")[2])


# ---------------------------------------------------------------- the zip format


def is_torch_zip(names: List[str]) -> bool:
    """Tells torch's zip files from others by the names of their members."""
    return any(name.endswith("/data.pkl") for name in names)


def read_zip(archive: zipfile.ZipFile) -> Contents:
    """Reads the zip format (torch 1.6 and later), a TorchScript program's too.

    Args:
        archive: the open file; the tensors are read from it later.

    Returns:
        What is in the file; of a TorchScript program the tensors of its modules, parameters and
        buffers and whatever other attributes are tensors, under the names of torch's state_dict.
    """
    members = {info.filename: info for info in archive.infolist()}
    programs = [name for name in members if name.endswith("/data.pkl")]
    # The outermost: a TorchScript program may carry files of others below ``extra/``.
    root = min(programs, key=lambda name: name.count("/"))[: -len("data.pkl")]
    scripted = root + "constants.pkl" in members
    order = b"little"
    if root + "byteorder" in members:
        with archive.open(members[root + "byteorder"]) as file:
            order = file.read(8)
    if order not in (b"little", b"big"):
        raise DamagedFile("its byte order is unknown")
    storages: Dict[Tuple[str, str], Any] = {}

    def persistent(pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise DamagedFile("it refers to data that is not a storage")
        _, kind, key, _, count = pid[:5]
        dtype = _storage_type(kind)
        if dtype is None:
            return kind
        if not isinstance(key, str):
            raise DamagedFile("it lacks the numbers of a storage without a name")
        if (key, dtype.name) not in storages:
            info = members.get(f"{root}data/{key}")
            if info is None:
                raise DamagedFile(f"it lacks the numbers of storage '{key[:20]}'")
            if count != info.file_size // dtype.itemsize:
                raise DamagedFile("a storage has more or fewer numbers than the file says")

            def read(begin: int, length: int) -> bytes:
                with archive.open(info) as file:
                    if begin:
                        file.seek(begin)
                    data = file.read(length)
                    if begin + length == info.file_size:
                        file.read(1)  # the end: the checksum is compared
                if len(data) != length:
                    raise DamagedFile("it ends too early")
                return data

            storages[key, dtype.name] = _Storage(dtype, count, read, order == b"big")
        return storages[key, dtype.name]

    program = members[root + "data.pkl"]
    limit = 1 << 28
    if program.file_size > limit:
        raise DamagedFile("its pickle is too large to be a description of weights")
    with archive.open(program) as file:
        data = file.read(program.file_size)
    window = Window(io.BytesIO(data), 0, len(data))
    tree = Unpickler(window, _KNOWN, persistent, _MODULES if scripted else None).load()
    return _of_modules(tree) if scripted else sort_out(tree, "torch")


def _of_modules(tree: Any) -> Contents:
    """Returns the tensors of a TorchScript program, under the names of torch's state_dict."""
    if not isinstance(tree, Instance):
        raise DamagedFile("it is a TorchScript program without a module")
    tensors: Dict[str, StoredArray] = {}
    refused: Dict[str, str] = {}
    objects = {tree.name}
    todo = [("", tree, 1)]
    length = 0
    while todo:
        path, module, depth = todo.pop()
        if depth > _MOST_MODULES_DEEP:
            raise DamagedFile("a module of its TorchScript program stands in itself")
        for key, value in module.attributes.items():
            if not isinstance(key, str) or not isinstance(value, (StoredArray, Placeholder)):
                continue  # a setting
            if getattr(value, "name", "").startswith(_LISTS):
                continue
            name = f"{path}.{key}" if path else key
            length += len(name)
            if length > _LONGEST_PATHS:
                raise DamagedFile("its pickle is too large to be a description of weights")
            if isinstance(value, StoredArray):
                tensors[name] = value
            elif isinstance(value, Instance):
                todo.append((name, value, depth + 1))
            else:
                objects.add(value.name)
                refused[name] = value.name
    found = Contents({"": tensors} if tensors else {}, "torch", {"": refused}, objects)
    found.without = (
        "is a TorchScript program whose modules hold no tensors: what was frozen keeps its weights "
        "as numbered constants without names; save the state_dict of the model that it came from"
    )
    return found


# ---------------------------------------------------------------- the format before


def read_legacy(file: BinaryIO, size: int) -> Contents:
    """Reads the format of torch before 1.6: five pickles, then the storages."""
    window = Window(file, 0, size)
    if Unpickler(window).load() != LEGACY_MAGIC or Unpickler(window).load() != _LEGACY_PROTOCOL:
        raise DamagedFile("it is of an unknown version of torch's format")
    system = Unpickler(window).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise DamagedFile("it was written on a big-endian machine")
    storages: Dict[str, _Storage] = {}
    begins: Dict[str, int] = {}

    def persistent(pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5:
            raise DamagedFile("it refers to data that is not a storage")
        if pid[0] == "module":  # the source of a pickled model's class: not read
            return pid[1]
        if pid[0] != "storage" or not isinstance(pid[2], str) or type(pid[4]) is not int:
            raise DamagedFile("it refers to data that is not a storage")
        _, kind, key, _, count = pid[:5]
        view = pid[5] if len(pid) > 5 else None
        dtype = _storage_type(kind)
        if dtype is None:
            raise DamagedFile(f"it holds numbers of the type {getattr(kind, 'name', 'unknown')}")

        def read(begin: int, length: int) -> bytes:
            return window.read_at(begins[key] + begin, length)

        whole = storages.setdefault(key, _Storage(dtype, count, read))
        if whole.dtype != dtype:
            raise DamagedFile("a storage has numbers of two types")
        if view is None:
            return whole
        _, first, length = view
        if not 0 <= first <= whole.count - length or length < 0:
            raise DamagedFile("a storage reaches beyond its numbers")
        skip = first * dtype.itemsize
        return _Storage(dtype, length, lambda begin, n: read(skip + begin, n))

    tree = Unpickler(window, _KNOWN, persistent).load()
    keys = Unpickler(window).load()
    named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not named or sorted(keys) != sorted(storages):
        raise DamagedFile("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack("<q", window.read(8))
        if count != storage.count:
            raise DamagedFile("a storage has more or fewer numbers than the file says")
        begins[key] = window.skip(count * storage.dtype.itemsize)
    return sort_out(tree, "torch")


# ---------------------------------------------------------------- writing


def write(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state_dict in the zip format, for ``torch.load(path, weights_only=True)``."""
    names = {dtype: name for name, dtype in _STORAGES.items() if name != "UntypedStorage"}
    program = [b"\x80\x02ccollections\nOrderedDict\n)R("]  # protocol 2, an empty mapping, a mark
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            # A fixed time: the same tensors give the same file.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        for number, (name, array) in enumerate(tensors.items()):
            if array.dtype not in names:
                raise DamagedFile(f"torch has no tensors of the type {array.dtype}")
            steps = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
            program += [
                _text(name),
                b"ctorch._utils\n_rebuild_tensor_v2\n((",
                _text("storage"),
                f"ctorch\n{names[array.dtype]}\n".encode(),
                _text(str(number)),
                _text("cpu"),
                _integer(array.size),
                b"tQ",  # the storage's tuple, as a persistent id
                _integer(0),
                _shape(array.shape),
                _shape(steps),
                b"\x89ccollections\nOrderedDict\n)RtR",  # no gradient, no hooks; call
            ]
            add(f"data/{number}", np.ascontiguousarray(array).tobytes())
        add("data.pkl", b"".join(program) + b"u.")
        add("byteorder", b"little")
        add("version", b"3\n")


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data


def _shape(shape: Any) -> bytes:
    return b"(" + b"".join(map(_integer, shape)) + b"t"
