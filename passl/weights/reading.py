"""Opening a weight file of any known format; the format is recognised by the content."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Optional, Union

import numpy as np

from passl.utils.errors import PasslError, listing, suggest
from passl.utils.pickles import Unpickler
from passl.utils.stored_array import DamagedFile, StoredArray, Window
from passl.utils.system_errors import explain_os_error
from passl.weights.formats import npz, paddle, safetensors, torch
from passl.weights.formats.contents import Contents
from passl.weights.named import Source, hint, is_named, named_file

# The key under which a file keeps the network, in order of preference, where its tensors do not
# stand at the top level. A moving average is never taken unasked.
_NETWORK_KEYS = (
    *("state_dict", "model", "model_state_dict", "module", "net", "network"),
    *npz.NETWORKS,
)
# Where our own checkpoints keep the weights, and a moving average of them.
MODEL, AVERAGE = "model", "ema"
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", AVERAGE)

# What people hold by mistake: how it begins, and what to do about it.
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; run  git lfs pull"),
    (b"<", "is a web page, not weights; download the file itself"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"BZh", "is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it first"),
    (b"\x89HDF", "is an HDF5 file (Keras, TensorFlow), which is not read"),
    (b"\x93NUMPY", "is a single NumPy array (.npy), not a set of named ones (.npz)"),
    (b"\xff\xd8", "is an image"),
    (b"\x89PNG", "is an image"),
)

# What the system says where a damaged file sends its reader to a place that no file has.
_OF_ABSURD_PLACES = (None, errno.EINVAL, errno.EOVERFLOW)
_LONGEST_NAME = 500
# The list of a zip file's members, in bytes; in memory it takes fifteen times as much.
_LONGEST_DIRECTORY = 1 << 21
# Weights hardly get smaller by packing. What unpacks to this many bytes does no harm, and what
# unpacks to so many times the file is no weights.
_HARMLESS_SIZE, _MOST_PACKED = 1 << 28, 20

PathLike = Union[str, os.PathLike]


class NoWeights(PasslError):
    """A file is damaged, or is none that holds weights."""


class WeightFile:
    """A weight file, open: names, shapes and types are known, numbers are read on demand.

    Args:
        path: the file; PASSL's own checkpoints, ``.safetensors``, torch's ``.pth``/``.pt``/
            ``.bin`` (both formats), Paddle's ``.pdparams``, or NumPy's ``.npz``. The content
            decides, not the name. Where no such file is there: the name of a release, or an
            address, whose file is fetched; see ``passl.weights.named``.
        key: which of its mappings to take as the network's weights (``state_dict_ema``); by
            default the usual one.
        remedy: what to do where the file is damaged.

    Attributes:
        path: as given, or of the file in the cache.
        source: where a file of the cache comes from; None for any other.
        format: what the content is: ``safetensors``, ``torch``, ``paddle`` or ``npz``.
        convention: how linear layers are stored, see ``Contents``.
        key: where in the file ``tensors`` stand; ``""`` is its top level.
        key_was_chosen: whether the caller named it.
        tensors: name to ``StoredArray``.
        groups: all such mappings of the file, by where they stand.
        metadata: what PASSL recorded beside the tensors; empty for others' files.

    Raises:
        PasslError: it cannot be read, is damaged, or holds no weights; one line that says why.

    Example:
        >>> with WeightFile("Mixer-B_16.npz") as file:
        ...     file.tensors["head/bias"].shape
        (1000,)
    """

    def __init__(
        self,
        path: PathLike,
        key: Optional[str] = None,
        remedy: str = "download it again, or take another",
    ):
        self.path = os.fspath(path)
        self.source: Optional[Source] = None
        self._remedy = remedy
        if is_named(self.path):
            self.path, self.source = named_file(self.path, _check_whole)
            self._remedy = "remove it, and it is fetched again"
        self._zip: Optional[zipfile.ZipFile] = None
        self._file = _open(self.path)
        try:
            with self.reading():
                size = os.fstat(self._file.fileno()).st_size
                contents = self._read_contents(size)
                _check(contents, size)
            self.groups = contents.groups
            self.convention = contents.convention
            self.metadata = contents.metadata
            self.key = self._choose(contents, key)
            self.key_was_chosen = key is not None
            self.tensors: Dict[str, StoredArray] = contents.groups[self.key]
            self._refused = contents.refused
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file; tensors cannot be read any more."""
        if self._zip is not None:
            self._zip.close()
        self._file.close()

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor of the network.

        Raises:
            PasslError: the file is damaged there.
        """
        with self.reading(name):
            return self.tensors[name].read()

    def read_group(self, key: str) -> Dict[str, np.ndarray]:
        """Returns all arrays of ``groups[key]``; an empty dict where there is no such group."""
        arrays = {}
        for name, array in self.groups.get(key, {}).items():
            with self.reading(name):
                arrays[name] = array.read()
        return arrays

    @contextlib.contextmanager
    def reading(self, what: str = "") -> Iterator[None]:
        """Turns whatever a damaged file makes its readers raise into a PasslError of one line."""
        try:
            yield
        except PasslError:
            raise
        except MemoryError:
            raise PasslError(f"{self.path}: asks for more memory than there is") from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno not in _OF_ABSURD_PLACES:
                raise explain_os_error(error, self.path, "read") from error
            where = f" at '{what}'" if what else ""
            reason = _printable(str(error).partition("\n")[0][:200]) or type(error).__name__
            raise NoWeights(
                f"{self.path}: is damaged, or is not what its name says{where} ({reason}); "
                f"{self._remedy}"
            ) from error

    # ------------------------------------------------ what it is

    def _read_contents(self, size: int) -> Contents:
        head = self._file.read(512)
        self._file.seek(0)
        if head[:4] == b"PK\x03\x04":
            return self._read_zip(size)
        if head[:2] in (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"):
            return self._read_pickle(size)
        if int.from_bytes(head[:8], "little") < size and head[8:9] == b"{":
            self.format = "safetensors"
            return safetensors.read(self.path, self._file, size)
        raise NoWeights(f"{self.path}: {_guess(head) if size else f'is empty; {self._remedy}'}")

    def _read_zip(self, size: int) -> Contents:
        end = zipfile._EndRecData(self._file)
        if end and end[zipfile._ECD_SIZE] > _LONGEST_DIRECTORY:
            raise DamagedFile("it has more members than weights have tensors")
        self._zip = zipfile.ZipFile(self._file)
        members = self._zip.infolist()
        # Other methods unpack without a limit on what comes out of a few bytes.
        if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in members):
            raise DamagedFile("it is packed by a method that neither NumPy nor torch uses")
        _check_unpacked(sum(member.file_size for member in members), size)
        names = [member.filename for member in members]
        if torch.is_torch_zip(names):
            self.format = "torch"
            return torch.read_zip(self._zip)
        if npz.is_npz(names):
            self.format = "npz"
            return npz.read(self._zip)
        raise NoWeights(
            f"{self.path}: is a zip file, but neither torch's nor NumPy's; it holds "
            f"{listing(_printable(name[:60]) for name in names[:3]) or 'nothing'}; unpack it "
            "first if the weights are inside"
        )

    def _read_pickle(self, size: int) -> Contents:
        try:
            legacy = Unpickler(Window(self._file, 0, min(size, 64))).load() == torch.LEGACY_MAGIC
        except Exception:  # the beginning of a longer pickle
            legacy = False
        if legacy:
            self.format = "torch"
            return torch.read_legacy(self._file, size)
        self.format = "paddle"
        return paddle.read(self._file, size)

    # ------------------------------------------------ which tensors are the network's

    def _choose(self, contents: Contents, key: Optional[str]) -> str:
        groups = contents.groups
        if key is not None:
            if key not in groups:
                raise PasslError(
                    f"{self.path}: holds no tensors under '{key}'{suggest(key, groups)}; it has "
                    f"them under: {_places(groups)}"
                )
            return key
        if self.metadata.get("kind") == "training":
            if MODEL not in groups:
                raise PasslError(f"{self.path}: is a checkpoint without a model")
            return AVERAGE if AVERAGE in groups else MODEL  # what was evaluated
        if not groups and contents.without:
            raise PasslError(f"{self.path}: {contents.without}")
        if not groups and contents.objects:
            raise PasslError(
                f"{self.path}: holds no tensors outside of objects of other programs "
                f"({listing(sorted(contents.objects)[:3])}), which are never rebuilt because that "
                "runs their code; save the model's state_dict instead"
            )
        if not groups:
            raise PasslError(f"{self.path}: holds no tensors")
        for usual in ("", *_NETWORK_KEYS):
            if usual in groups:
                return usual
        if len(groups) == 1:
            return next(iter(groups))
        raise PasslError(
            f"{self.path}: has tensors in several places; choose one with --weights-key: "
            f"{_places(groups)}"
        )

    def refused_under(self, key: str) -> Dict[str, str]:
        """Returns names of ``groups[key]`` whose value only another program's code could make.

        And what that code is called.
        """
        return self._refused.get(key, {})

    def averages(self) -> List[str]:
        """Returns the keys of moving averages of the weights.

        They are not taken unasked, unless it is the average whose accuracy was published.
        """
        return [key for key in _AVERAGES if key in self.groups and key != self.key]


def _open(path: str) -> BinaryIO:
    try:
        if os.path.isdir(path):
            raise PasslError(f"{path}: is a folder; name the weight file in it")
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise PasslError(f"{path}: is not a file")
        return open(path, "rb")
    except FileNotFoundError:
        raise PasslError(f"{path}: there is no such file{hint(path)}") from None
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    except ValueError as error:  # of a name that no file can have
        raise PasslError(f"{path}: cannot be read ({error})") from None


def _check_whole(path: Path) -> None:
    """Raises a NoWeights for a file that is no weight file, or not a whole one."""
    try:
        WeightFile(path).close()
    except NoWeights:
        raise
    except PasslError:  # which of its networks is meant is asked later
        pass


def _check(contents: Contents, size: int) -> None:
    """Refuses what would flood memory or the screen, in whatever format."""
    for group, tensors in contents.groups.items():
        # Views of the same numbers take no room in the file, nor do shapes such as [0, 2**40].
        _check_unpacked(sum(_extent(array) for array in tensors.values()), size)
        for name in (group, *tensors, *contents.refused.get(group, ())):
            if len(name) > _LONGEST_NAME or not name.isprintable():
                raise DamagedFile("the name of a tensor is too long, or not of printable text")


def _extent(array: StoredArray) -> int:
    return math.prod(max(axis, 1) for axis in array.shape) * array.dtype.itemsize


def _check_unpacked(unpacked: int, size: int) -> None:
    if unpacked > max(_HARMLESS_SIZE, _MOST_PACKED * size):
        raise DamagedFile(f"it would unpack to {unpacked / 1e9:.1f} GB, which no weights do")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _guess(head: bytes) -> str:
    for start, meaning in _NOT_WEIGHTS:
        if head.lstrip().startswith(start):
            return meaning
    if head[257:262] == b"ustar":
        return "is a tar archive (torch before 0.2 saved such); unpack it, or save it again"
    return (
        "is no weight file: it begins like neither .npz, .safetensors, torch's .pth nor Paddle's "
        ".pdparams"
    )


def _places(groups: Dict[str, Any]) -> str:
    shown = [f"'{key}' ({len(group)})" for key, group in list(groups.items())[:12]]
    return ", ".join(shown) + (", …" if len(groups) > 12 else "")
