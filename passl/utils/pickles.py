"""Reading pickles without running them.

A pickle is a program: it names functions and has them called. Here arrays and plain containers
are rebuilt by code of this file and everything else that a pickle names becomes a ``Placeholder``,
which is never imported and never called.

The standard library's own interpreter, in its Python form, walks through the program; every
instruction that would import, call or set attributes is replaced. (``torch.load`` and fickling
were weighed: the one needs torch, the other analyses pickles and then runs them.)
"""

from __future__ import annotations

import pickle
import re
import struct
import types
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

import numpy as np

from passl.utils.stored_array import DamagedFile, StoredArray, Window

# Longer strings stay in the file until an array of theirs is read.
_LONG = 1 << 12
# What a program may take of memory, in bytes, those long strings not counted; and of time, because
# every step counts as what the largest object that a step makes needs. The largest training
# checkpoints of the networks here need a tenth of it.
_BUDGET = 1 << 28
_STEP = 256
_LONGEST_NAME = 500


class Placeholder:
    """Stands for something that a pickle names and that is not rebuilt.

    Attributes:
        name: ``module.name``, as the pickle says it.
    """

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}, not rebuilt>"


class Known(Placeholder):
    """A name that a reader knows how to rebuild, by a function of its own."""

    def __init__(self, name: str, rebuild: Callable[..., Any]):
        super().__init__(name)
        self.rebuild = rebuild


class Instance(Placeholder):
    """Stands for an object of a class that is not there, and keeps what it was given.

    Attributes:
        name: of its class, ``module.name``.
        attributes: what the pickle would set on it: name to value, which is the pickle's own
            mapping; empty where it gives none, or something else than a mapping.
    """

    attributes: Mapping[Any, Any] = types.MappingProxyType({})


class LongString:
    """A string or byte string that is still in the file."""

    def __init__(self, window: Window, count: int, encoding: Optional[str] = None):
        self._window, self._count = window, count
        self._begin = window.skip(count)
        self.encoding = encoding  # of its characters in the file; None: plain bytes

    def read(self) -> bytes:
        """Returns the bytes that are meant."""
        data = self._window.read_at(self._begin, self._count)
        return data if self.encoding is None else data.decode(self.encoding).encode("latin-1")


class _Dtype:
    """A NumPy dtype that a pickle is building."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True):
        code = code.decode("ascii") if isinstance(code, bytes) else code
        self.code = code if isinstance(code, str) else getattr(code, "name", "")
        self.order = "="

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise DamagedFile("it holds an array of records")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "|", "="):
            raise DamagedFile("it holds an array of unknown byte order")
        self.order = order

    def dtype(self) -> np.dtype:
        # Objects ("O"), text and dates are no numbers.
        if not re.fullmatch(r"[?bBhHiIlLqQefd]|b1|[iu][1248]|f[248]|c(8|16)", self.code):
            raise DamagedFile(f"it holds an array of NumPy type '{self.code[:20]}', not of numbers")
        return np.dtype(self.code).newbyteorder(self.order)


class PickledArray:
    """A NumPy array in a pickle; ``stored`` once its state is known."""

    stored: Optional[StoredArray] = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise DamagedFile("it holds an incomplete array")
        _, shape, dtype, fortran, data = state
        self.fill(shape, dtype, bool(fortran), data)

    def fill(self, shape: Any, dtype: Any, fortran: bool, data: Any) -> None:
        if not isinstance(dtype, _Dtype):
            raise DamagedFile("it holds an array of unknown type")
        kind = dtype.dtype()
        if isinstance(data, str):
            data = data.encode("latin-1")
        if not isinstance(data, (bytes, bytearray, LongString)):
            raise DamagedFile("it holds an array that is not stored as numbers")

        def read() -> np.ndarray:
            content = data.read() if isinstance(data, LongString) else data
            if len(content) != stored.nbytes:
                raise DamagedFile("an array has more or fewer numbers than its shape says")
            array = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
            return array.astype(kind.newbyteorder("="), copy=False)

        stored = StoredArray(shape, kind.newbyteorder("="), read)
        self.stored = stored


def _encode(text: Any, encoding: Any) -> Any:
    """``_codecs.encode``: how protocol 2 writes bytes, as characters 0 to 255."""
    if encoding not in ("latin1", "latin-1"):
        raise DamagedFile("it holds text of an unknown encoding")
    if isinstance(text, LongString) and text.encoding == "utf-8":
        return text
    return text.encode("latin-1")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.fill(shape, dtype, order == "F", data)
    return array


def _mapping(pairs: Any = ()) -> Dict[Any, Any]:
    made = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        if _is_plain(key):
            made[key] = value
    return made


def _items(container: Any = ()) -> List[Any]:
    if not isinstance(container, (list, tuple, dict, set, frozenset)):  # text: more than it costs
        raise DamagedFile("it makes a list of what is none")
    return list(container)


def _plain_items(container: Any = ()) -> List[Any]:
    return [item for item in _items(container) if _is_plain(item)]


def _is_plain(key: Any) -> bool:
    """Tells what may be a key from what is left out of mappings and sets.

    Anybody can make tuples, large integers and NaNs that all have the same hash, and tuples whose
    hash takes for ever. None of them is ever a tensor's name.
    """
    if isinstance(key, (int, float)):
        return -(1 << 60) < key < 1 << 60
    return key is None or isinstance(key, (str, bytes))


# What every reader rebuilds. Each function takes what the pickle gives the one it stands for.
_KNOWN: Dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *factory: {},
    "_codecs.encode": _encode,
    "numpy.dtype": _Dtype,
    **{
        f"numpy.{core}.{name}": rebuild
        for core in ("core", "_core")
        for name, rebuild in (
            ("multiarray._reconstruct", lambda *_: PickledArray()),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
for _module in ("builtins", "__builtin__"):
    _KNOWN.update(
        {
            f"{_module}.dict": _mapping,
            f"{_module}.list": _items,
            f"{_module}.tuple": lambda items=(): tuple(_items(items)),
            f"{_module}.set": lambda items=(): set(_plain_items(items)),
            f"{_module}.frozenset": lambda items=(): frozenset(_plain_items(items)),
            f"{_module}.bytes": lambda: b"",  # how protocol 2 writes those that are empty
            f"{_module}.bytearray": lambda data=b"": data,
        }
    )
for _module in ("copyreg", "copy_reg"):
    _KNOWN[f"{_module}._reconstructor"] = lambda cls, *_: Placeholder(cls.name)


class _Budget:
    """What a program may still spend, and the window seen through it."""

    def __init__(self, window: Window):
        self._window = window
        self._left = _BUDGET

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise DamagedFile("its pickle is too large to be a description of weights")

    def read(self, count: int) -> bytes:
        self.spend(_STEP + 4 * count)  # a character takes up to four bytes
        return self._window.read(count)

    def readline(self) -> bytes:
        line = self._window.readline()
        self.spend(_STEP + 4 * len(line))
        return line


class Unpickler(pickle._Unpickler):
    """Rebuilds the one object at the window's place, and runs nothing.

    Args:
        window: where to read; afterwards it stands behind the object.
        known: what the format adds to the names that are rebuilt: ``"module.name"`` to function.
        persistent: what the format makes of persistent ids; None refuses them.
        instances_of: objects of classes whose full name begins so become an ``Instance`` each,
            which keeps its attributes; by default every object is a bare ``Placeholder``.

    Example:
        >>> Unpickler(Window(file, 0, size)).load()
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(
        self,
        window: Window,
        known: Optional[Mapping[str, Callable[..., Any]]] = None,
        persistent: Optional[Callable[[Any], Any]] = None,
        instances_of: Optional[str] = None,
    ):
        self._budget = _Budget(window)
        super().__init__(self._budget, encoding="latin-1")
        self._window = window
        self._known = {**_KNOWN, **(known or {})}
        self._persistent = persistent
        self._instances_of = instances_of

    def load(self) -> Any:
        """Returns the object.

        Raises:
            DamagedFile, or any exception of the standard library: a pickle that is damaged, or
                that asks for what is not rebuilt in a way that leaves nothing to return.
        """
        return super().load()

    # ------------------------------------------------ names and calls

    def find_class(self, module: str, name: str) -> Placeholder:
        full = f"{module}.{name}"
        if len(full) > _LONGEST_NAME or not full.isprintable():
            raise DamagedFile("it names what no module can hold")
        self._budget.spend(len(full))
        rebuild = self._known.get(full)
        return Known(full, rebuild) if rebuild is not None else Placeholder(full)

    def get_extension(self, code: int) -> None:
        raise DamagedFile("it uses pickle extension codes")

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise DamagedFile("it refers to data outside of itself")
        return self._persistent(pid)

    def _rebuild(self, what: Any, arguments: Any) -> Any:
        if not isinstance(what, Placeholder) or not isinstance(arguments, tuple):
            raise DamagedFile("it calls what is not a name")
        if isinstance(what, Known):
            # They may be copied, and the same ones be used in many calls.
            for part in (arguments, *arguments):
                if isinstance(part, (str, bytes)):
                    self._budget.spend(len(part))
                elif isinstance(part, (list, tuple, dict, set, frozenset)):
                    self._budget.spend(_STEP * len(part))
            return what.rebuild(*arguments)
        if self._instances_of is not None and what.name.startswith(self._instances_of):
            return Instance(what.name)
        return Placeholder(what.name)

    def _instantiate(self, klass: Any, args: Any) -> None:  # INST and OBJ
        self.append(self._rebuild(klass, tuple(args)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._rebuild(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.append(self._rebuild(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments: nothing that is rebuilt takes any
        self.load_newobj()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, (PickledArray, _Dtype)):
            target.set_state(state)
        elif isinstance(target, Instance) and isinstance(state, dict):
            target.attributes = state  # kept, and never set: it may hold ``__class__``
        # Any other state is attributes to set, and nothing that is rebuilt has any that matter.

    def load_put(self) -> None:
        place = int(self.readline()[:-1])
        if not 0 <= place < 1 << 32:  # as in the other instructions; see _is_plain
            raise DamagedFile("its pickle remembers more than it holds")
        self.memo[place] = self.stack[-1]

    # ------------------------------------------------ containers

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: List[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise DamagedFile("it appends to what is not a list")

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _set(self, items: List[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            return
        if not isinstance(target, dict):
            raise DamagedFile("it sets items of what is not a mapping")
        for key, value in zip(items[::2], items[1::2]):
            if _is_plain(key):
                target[key] = value

    def load_additems(self) -> None:
        items = _plain_items(self.pop_mark())
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        items = _plain_items(self.pop_mark())  # before ``append`` is looked up: it changes it
        self.append(frozenset(items))

    # ------------------------------------------------ strings

    def load_frame(self) -> None:
        self.read(8)  # a frame is a hint for buffered reading, which the window does by itself

    def _string(self, count: int, encoding: Optional[str]) -> Union[str, bytes, LongString]:
        if count > _LONG:
            return LongString(self._window, count, encoding)
        data = self.read(count)
        return data if encoding is None else data.decode(encoding, "surrogatepass")

    def _load_string(self, length: str, encoding: Optional[str]) -> None:
        (count,) = struct.unpack(length, self.read(struct.calcsize(length)))
        self.append(self._string(count, encoding))

    def load_binstring(self) -> None:  # Python 2's str: bytes, or text
        (count,) = struct.unpack("<i", self.read(4))
        if count > _LONG:
            self.append(self._string(count, None))
        else:
            self.append(self.read(count).decode("latin-1"))


def _replace_instructions() -> None:
    table, own = Unpickler.dispatch, Unpickler
    for code, method in (
        (pickle.REDUCE, own.load_reduce),
        (pickle.NEWOBJ, own.load_newobj),
        (pickle.NEWOBJ_EX, own.load_newobj_ex),
        (pickle.BUILD, own.load_build),
        (pickle.PUT, own.load_put),
        (pickle.APPEND, own.load_append),
        (pickle.APPENDS, own.load_appends),
        (pickle.SETITEM, own.load_setitem),
        (pickle.SETITEMS, own.load_setitems),
        (pickle.DICT, own.load_dict),
        (pickle.ADDITEMS, own.load_additems),
        (pickle.FROZENSET, own.load_frozenset),
        (pickle.FRAME, own.load_frame),
        (pickle.BINSTRING, own.load_binstring),
        (pickle.BINBYTES, lambda self: self._load_string("<I", None)),
        (pickle.BINBYTES8, lambda self: self._load_string("<Q", None)),
        (pickle.BYTEARRAY8, lambda self: self._load_string("<Q", None)),
        (pickle.BINUNICODE, lambda self: self._load_string("<I", "utf-8")),
        (pickle.BINUNICODE8, lambda self: self._load_string("<Q", "utf-8")),
    ):
        table[code[0]] = method


_replace_instructions()
