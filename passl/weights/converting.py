"""From one release's names and file format to another's, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from passl.utils.errors import PasslError, listing, suggest
from passl.utils.stored_array import BFLOAT16, DamagedFile, StoredArray
from passl.utils.system_errors import explain_os_error
from passl.utils.whole_files import replacing
from passl.weights.activations import QUICK_GELU, quick_gelu_of
from passl.weights.formats import npz, paddle, safetensors, torch
from passl.weights.formats.safetensors import own_labels
from passl.weights.loading import IMAGENET, data_of
from passl.weights.naming import (
    OWN,
    Naming,
    ReleasedNames,
    Translation,
    namings,
    translate,
)
from passl.weights.origin import origin_of_weights
from passl.weights.reading import AVERAGE, WeightFile

_BACKBONE, _HEAD, _TEXT = "backbone.", "head.", "text."
Writer = Callable[[str, Mapping[str, np.ndarray]], None]

# Suffix -> how such a file is written, whose names it gets where nothing else is asked for, and the
# convention that its readers expect; None: that of the names.
_FORMATS: Dict[str, Tuple[Writer, str, Optional[str]]] = {
    ".npz": (npz.write, "google", "flax"),
    ".pth": (torch.write, "timm", "torch"),
    ".pt": (torch.write, "timm", "torch"),
    ".bin": (torch.write, "timm", "torch"),
    ".pdparams": (paddle.write, "passl_v1", "paddle"),
    ".safetensors": (safetensors.write, OWN, None),
}


@dataclasses.dataclass
class Conversion:
    """What ``convert_weights`` did.

    Attributes:
        source, target: whose names it read and wrote.
        tensors: how many.
        dropped: what else the source held, and the target does not.
        origin: how the weights were made, see ``origin_of_weights``; empty where that is not known
            or the target's format has no place for it.
        nameless: whether the source has names of its classes, which the target's format has no
            place for.
    """

    source: str
    target: str
    tensors: int
    dropped: List[str]
    origin: Dict[str, Any]
    nameless: bool


def convert_weights(
    source: os.PathLike,
    target: os.PathLike,
    families: Mapping[str, ReleasedNames],
    publisher: Optional[str] = None,
    key: Optional[str] = None,
    part: Optional[str] = None,
    other: Optional[os.PathLike] = None,
    share: float = 0.5,
) -> Conversion:
    """Writes the weights of one file in another publisher's names and format.

    Numbers and their type stay as they are. What a file holds besides the network's tensors
    (an optimizer's state, a history) is not carried over, but for the names of the classes and how
    the weights were made, which ``.safetensors`` has room for.

    Args:
        source: see ``WeightFile`` for what is read.
        target: its suffix picks the format: ``.npz``, ``.pth``, ``.pt``, ``.bin``,
            ``.pdparams`` or ``.safetensors``. Written aside and renamed: it appears whole or not
            at all, and replaces what was there.
        families: ``released_names`` of the networks that the file could be of.
        publisher: whose names to write; by default those usual for the format (``google``,
            ``timm``, ``passl_v1``; ``passl`` for ``.safetensors``).
        key: which of the source's mappings to take, where it has several.
        part: ``backbone`` writes that alone; ``twin`` the backbone of the momentum encoder. None
            writes everything, for which the publisher must have names.
        other: another file of the same network; what is written is then the mean of both, which is
            often better than either on images unlike those of fine-tuning (WiSE-FT; Wortsman et
            al., arXiv 2109.01903, equation 1, α).
        share: that of ``other`` in the mean.

    Raises:
        PasslError: an unreadable source, tensors of no known network, a part that it has not got, a
            combination that nobody uses, two files of different networks, or a full disk.
    """
    if not 0 <= share <= 1:
        raise PasslError(f"the share of the other file lies in [0, 1], not {share}")
    target = Path(target)
    if target.suffix not in _FORMATS:
        raise PasslError(
            f"{target}: '{target.suffix}' is no format that is written; it is one of: "
            f"{listing(_FORMATS)}"
        )
    write, usual, convention = _FORMATS[target.suffix]
    with contextlib.ExitStack() as files:
        file = files.enter_context(WeightFile(source, key))
        released_names, found = _read(file, families, publisher or usual)
        naming = _naming(publisher or usual, released_names, target)
        tensors = found.tensors if part is None else _of_part(found.tensors, part, file.path)
        quick_gelu: Dict[str, bool] = {}
        of_pairs = any(
            name.startswith(_TEXT) for entry in released_names.values() for name in entry[1]
        )
        if of_pairs:
            quick_gelu = quick_gelu_of(file)[0]
        if other is not None:
            theirs = files.enter_context(WeightFile(other))
            _, of_theirs = _read(theirs, families, publisher or usual)
            others = of_theirs.tensors
            if part == "twin":  # the backbone beside it is another network
                others = _of_part(others, part, theirs.path)
            tensors = _mean(tensors, others, share, file, theirs)
            if of_pairs:
                quick_gelu = _of_both(quick_gelu, file, theirs)
        named = _rename(tensors, naming, convention, file.path)
        arrays = {}
        for name, array in named.items():
            with file.reading(name):
                arrays[name] = np.asarray(array.read(), order="C")  # keeps scalars such
        names = file.metadata.get("class_names") if part is None else None
        facts = {"kind": "weights", "class_names": names}
        released = not file.metadata and found.publisher != OWN
        data = None if of_pairs and released else data_of(file.metadata, found.publisher)
        if data is not None:
            facts["data"] = data
        if part is not None:
            facts["part"] = part
        origin = _origin(file, data, part, other is not None)
        if origin:
            facts["origin"] = origin
        if quick_gelu:
            facts[QUICK_GELU] = quick_gelu
        dropped = [group for group in file.groups if group != found.key]
    nameless = False
    if write is safetensors.write:
        labels = _labels(naming, facts)
        _write_whole(target, lambda path: safetensors.write(path, arrays, labels))
    else:
        _write_whole(target, lambda path: write(path, arrays))
        nameless, origin = bool(facts["class_names"]), {}
    return Conversion(found.publisher, naming.name, len(arrays), dropped, origin, nameless)


def _read(
    file: WeightFile, families: Mapping[str, ReleasedNames], publisher: str
) -> Tuple[ReleasedNames, Translation]:
    released_names, found = _family(file, families, publisher)
    if found.unexpected or found.refused:
        stray = [*found.unexpected, *found.refused]
        raise PasslError(
            f"{file.path}: {len(stray)} tensors are none of this network's: {', '.join(stray[:6])}"
        )
    return released_names, found


def _mean(
    ours: Mapping[str, StoredArray],
    theirs: Mapping[str, StoredArray],
    share: float,
    file: WeightFile,
    other: WeightFile,
) -> Dict[str, StoredArray]:
    """Returns ``(1 - share) · ours + share · theirs``, in the types of ours, still unread."""
    for name, array in ours.items():
        if name not in theirs or theirs[name].shape != array.shape:
            there = list(theirs[name].shape) if name in theirs else "nothing"
            raise PasslError(
                f"{other.path}: has {there} where {file.path} has '{name}' {list(array.shape)}; a "
                "mean is one of two files of the same network"
            )
    names = [one.metadata.get("class_names") for one in (file, other)]
    if None not in names and names[0] != names[1]:
        raise PasslError(f"{other.path}: its head is for other classes than that of {file.path}")

    def mean(name: str) -> np.ndarray:
        one, two = ours[name].read(), theirs[name].read()
        if one.dtype != BFLOAT16 and one.dtype.kind != "f":
            return one  # a counter
        return ((1 - share) * one.astype(np.float64) + share * two.astype(np.float64)).astype(
            one.dtype
        )

    return {
        name: StoredArray(array.shape, array.dtype, functools.partial(mean, name))
        for name, array in ours.items()
    }


def _of_both(ours: Mapping[str, bool], file: WeightFile, other: WeightFile) -> Dict[str, bool]:
    """Returns the GELU of each part of two files, as far as either tells."""
    theirs = quick_gelu_of(other)[0]
    if any(theirs.get(part, quick) != quick for part, quick in ours.items()):
        raise PasslError(
            f"{other.path}: was trained with another GELU than {file.path}; a mean is one of two "
            "files of the same network"
        )
    return {**theirs, **ours}


def _family(
    file: WeightFile, families: Mapping[str, ReleasedNames], publisher: str
) -> Tuple[ReleasedNames, Translation]:
    """Returns the names of the family that the file is of, and the file in our names.

    Families share names (``patch_embed.proj``, ``head``), so that it is the one that knows most; of
    those that know as much, as CLIP's ViT and the plain one do, the one that leaves least out, or
    in which the publisher whose names are wanted has a name for everything.
    """
    problems, fitting = [], []
    for released_names in families.values():
        try:
            found = translate(file, released_names)
        except PasslError as error:
            problems.append(error)
            continue
        own = namings(released_names)[OWN]
        known = sum(own.to_here(name) is not None for name in found.tensors)
        if known:
            named = _names_all(namings(released_names).get(publisher), found.tensors)
            understood = known + len(found.left_out)
            fitting.append(((understood, known, named), released_names, found))
    if fitting:
        _, released_names, found = max(fitting, key=lambda fit: fit[0])
        return released_names, found
    if len(problems) == 1:
        raise problems[0]
    raise PasslError(
        f"{file.path}: its names belong to no network that is known ({listing(families)})"
    )


def _names_all(naming: Optional[Naming], tensors: Mapping[str, StoredArray]) -> bool:
    """Tells whether a publisher has a name for each of the tensors."""
    if naming is None:
        return False
    try:
        return all(naming.write(name, array) is not None for name, array in tensors.items())
    except PasslError:  # a name it has, but no room for such an array
        return True


def _of_part(tensors: Mapping[str, StoredArray], part: str, path: str) -> Dict[str, StoredArray]:
    """Returns the tensors of a backbone: the network's own, or that of another part."""
    prefix = _BACKBONE if part == "backbone" else f"{part}.{_BACKBONE}"
    found = {
        _BACKBONE + name[len(prefix) :]: array
        for name, array in tensors.items()
        if name.startswith(prefix)
    }
    if not found:
        parts = listing(dict.fromkeys(name.partition(".")[0] for name in tensors))
        raise PasslError(f"{path}: has no backbone in a part called '{part}'; its parts: {parts}")
    return found


def _origin(
    file: WeightFile, data: Optional[str], part: Optional[str], mean: bool
) -> Dict[str, Any]:
    """Returns how the weights that are written were made.

    Where a checkpoint has averaged weights, its evaluation is of those; and never of the twin, or
    of a mean with another file.
    """
    others = mean or part == "twin" or (AVERAGE in file.groups and file.key != AVERAGE)
    origin = origin_of_weights(file.metadata, data, evaluated=not others)
    return {**origin, "part": part} if origin and part == "twin" else origin


def _naming(publisher: str, released_names: ReleasedNames, target: Path) -> Naming:
    known = namings(released_names)
    if publisher not in known:
        raise PasslError(
            f"'{publisher}' is no publisher of this network's weights"
            f"{suggest(publisher, known)}; known: {listing(known)}"
        )
    naming = known[publisher]
    flax = naming.convention == "flax"
    if flax != (target.suffix == ".npz"):
        raise PasslError(
            f"{target}: the names of '{publisher}' go into "
            f"{'.npz' if flax else listing(s for s in _FORMATS if s != '.npz')} files"
        )
    return naming


def _rename(
    tensors: Mapping[str, StoredArray], naming: Naming, convention: Optional[str], path: str
) -> Dict[str, StoredArray]:
    named = {}
    for name, array in tensors.items():
        there = naming.write(name, array, convention)
        if there is None and naming.name == OWN:  # also of parts that no publisher has
            there = {name: array}
        if there is None:
            remedy = ""
            if not name.startswith((_BACKBONE, _HEAD)):
                remedy = "; --part backbone writes the backbone alone, without head"
            raise PasslError(f"{path}: '{naming.name}' has no name for '{name}'{remedy}")
        named.update(there)
    return named


def _labels(naming: Naming, facts: Dict[str, Any]) -> Dict[str, str]:
    """Returns what a safetensors file says about itself: its framework, and PASSL's record."""
    if naming.name == OWN:
        return own_labels(facts)
    framework = {"format": "pt" if naming.convention == "torch" else "pd"}
    released = facts["class_names"] is None and facts.get("data") == IMAGENET
    if released and not facts.get("origin"):
        return framework
    return {**framework, **own_labels({**facts, "publisher": naming.name})}


def _write_whole(target: Path, write: Callable[[str], None]) -> None:
    try:
        with replacing(target) as aside:
            write(str(aside))
    except DamagedFile as error:
        raise PasslError(f"{target}: cannot be written: {error}") from None
    except OSError as error:
        raise explain_os_error(error, target) from None
