"""Putting a file's tensors into a network, with every tensor accounted for."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Container, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from paddle import nn

from passl.utils.errors import PasslError, first_of
from passl.utils.logging import logger
from passl.utils.stored_array import BFLOAT16, StoredArray
from passl.weights.activations import QUICK_GELU, SETTINGS, quick_gelu_of
from passl.weights.named import Source
from passl.weights.naming import OWN, ReleasedNames, translate
from passl.weights.origin import describe_origin
from passl.weights.reading import WeightFile

_BACKBONE, _HEAD = "backbone.", "head."
_SHOWN = 6
IMAGENET = "ImageNet"


@dataclasses.dataclass
class LoadReport:
    """What ``load_weights`` did.

    Attributes:
        path, format, publisher: what was loaded, and whose names it uses.
        loaded: names of the network's tensors that were set.
        kept: names that were not, and have their initial values.
        left_out: names of the file's tensors that were not used.
        metadata: what PASSL recorded in the file (``class_names``, ``config``, …).
        source: of a file that was fetched, else None.
        has_head: whether the head's tensors, if the network has any, are the file's.
        of_imagenet: whether the head, of 1,000 classes, is one of ImageNet-1k: the run's data set
            was that, or it is a release, as which a file counts that PASSL has not written.
    """

    path: str
    format: str
    publisher: str
    loaded: List[str]
    kept: List[str]
    left_out: List[str]
    metadata: Dict[str, Any]
    source: Optional[Source] = None

    @property
    def whence(self) -> str:
        """The file, for records: with release and hash where it was fetched."""
        return self.path if self.source is None else f"{self.path}: {self.source}"

    @property
    def has_head(self) -> bool:
        return not any(name.startswith(_HEAD) for name in self.kept)

    @property
    def class_names(self) -> Optional[List[str]]:
        """Those that the file records of its head; None where that is not used, or nothing is."""
        return self.metadata.get("class_names") if self.has_head else None

    @property
    def of_imagenet(self) -> bool:
        return self.has_head and data_of(self.metadata, self.publisher) == IMAGENET


def load_weights(
    model: nn.Layer,
    path: Union[str, os.PathLike, WeightFile],
    key: Optional[str] = None,
    allow_partial: bool = False,
    new_head: bool = False,
    class_names: Optional[Sequence[str]] = None,
) -> LoadReport:
    """Loads a weight file into a network, whoever released it.

    A tensor is read, set and let go of before the next one, so that loading needs hardly more
    memory than the network.

    Args:
        model: an architecture, a network as ``create_model`` returns, or a backbone alone, for
            which the file's head is left out, as parts are for any that has not got them. An
            architecture without a ``backbone`` of that name takes files of its own.
        path: the file, see ``WeightFile`` for the formats, and for names and addresses in the place
            of a path; or one that is open.
        key: which of the file's mappings to take, where it has several.
        allow_partial: load what fits, and report the rest.
        new_head: leave the head as it is where the file has none, or one for other classes:
            fine-tuning. Classes are others where their number is, or their names are known and
            differ; the rows of those with the same name are taken. Other parts besides the
            backbone (a projector, a twin) are left as they are too where the file's do not fit.
        class_names: of the network's classes, where they have names.

    Raises:
        PasslError: an unreadable file, names and shapes that do not fit, another GELU than the
            weights were trained with where that is known, or numbers that are none (NaN,
            infinity). The network is then unchanged, unless that is found half way.
    """
    if isinstance(path, WeightFile):
        return _load(model, path, allow_partial, new_head, class_names)
    with WeightFile(path, key) as file:
        return _load(model, file, allow_partial, new_head, class_names)


def _load(
    model: nn.Layer,
    file: WeightFile,
    allow_partial: bool,
    new_head: bool,
    class_names: Optional[Sequence[str]],
) -> LoadReport:
    state = model.state_dict()
    backbone = getattr(model, "backbone", model)
    # An architecture of several networks may have a table of its own.
    names = getattr(model, "released_names", None) or getattr(backbone, "released_names", {})
    found = translate(file, names)
    # A backbone alone leaves the front of its names out; a network of other parts has its own.
    whole = hasattr(model, "backbone") or (
        found.publisher == OWN and any(name in found.tensors for name in state)
    )
    prefix = "" if whole else _BACKBONE
    own = {prefix + name: tensor for name, tensor in state.items()}
    if found.publisher != OWN:
        averages = file.averages()
        if found.key != file.key:
            logger.info(
                "%s: taking '%s', the moving average, whose accuracy was published",
                file.path, found.key,
            )  # fmt: skip
        elif averages:
            logger.info(
                "%s: taking '%s'; it also holds averaged weights: --weights-key %s",
                file.path, file.key, averages[0],
            )  # fmt: skip
    tensors = dict(found.tensors)
    left_out = _of_other_parts(file.path, own, tensors)
    kept = _parts_that_stay(file.path, model, own, tensors, new_head, found.publisher)
    left_out += [name for name in tensors if _part(name) in kept]
    own = {name: tensor for name, tensor in own.items() if _part(name) not in kept}
    with_head = new_head and any(name.startswith(_HEAD) for name in own)
    if with_head and _other_classes(own, tensors, file.metadata.get("class_names"), class_names):
        tensors = _with_rows_by_name(own, tensors, file, class_names)
    elif with_head and _other_head(own, tensors):
        heads = [name for name in tensors if name.startswith(_HEAD)]
        there, here = _classes(tensors), _classes(own)
        differs = "has no head"
        if heads:
            differs = "its head has other shapes than the model's"
        if heads and there != here:
            differs = f"its head has {there} classes, the model's {here}"
        left_out += heads
        logger.info("%s: %s, so the head begins anew", file.path, differs)
        lacking = () if heads or found.naming is None else found.naming.may_lack
        own = {
            name: tensor
            for name, tensor in own.items()
            if not name.startswith(_HEAD)
            and not (lacking and name not in tensors and lacking(name))
        }
    tensors = {name: array for name, array in tensors.items() if name not in left_out}
    if not any(name in own for name in tensors):
        raise PasslError(f"{file.path}: holds none of the tensors of this network")

    for name, cause in found.refused.items():
        if name in own:
            raise PasslError(
                f"{file.path}: its tensor '{name}' can only be made by {cause[:100]}, which is "
                "never run; save plain tensors"
            )
    try:
        tensors, mismatched, resized = _fit(model, own, tensors, found.publisher)
    except PasslError as error:
        raise PasslError(f"{file.path}: {error}") from None
    missing = [name for name in own if name not in tensors and name not in mismatched]
    unexpected = found.unexpected + [name for name in tensors if name not in own]
    if missing or unexpected or mismatched:
        account = "; ".join(
            [
                *_list("missing in the file", missing),
                *_list("unexpected", unexpected),
                *_list("of another shape", [f"{n} {why}" for n, why in mismatched.items()]),
            ]
        )
        if not allow_partial:
            raise PasslError(
                f"{file.path}: does not fit the config's model: {account} "
                "(--allow-partial loads what fits)"
            )
        logger.warning("%s: loaded in part: %s", file.path, account)
    loaded = [name for name in tensors if name in own]
    _check_gelu(model, file, {_part(name) for name in loaded})
    if resized:
        logger.info("%s: %s", file.path, resized)
    for name in loaded:
        with file.reading(name):
            array = np.asarray(tensors[name].read(), order="C")  # keeps scalars such
        _check_finite(file.path, name, array)
        own[name].set_value(paddle.to_tensor(_plain(array), dtype=own[name].dtype))
    origin = describe_origin(file.metadata.get("origin", {}))
    logger.info(
        "%s: %d tensors (%s, %s names)%s",
        file.path,
        len(loaded),
        file.format,
        found.publisher,
        (f", {origin}" if origin else "") + (f", {file.source}" if file.source else ""),
    )
    names = [prefix + name for name in model.state_dict()]
    return LoadReport(
        file.path,
        file.format,
        found.publisher,
        [name[len(prefix) :] for name in loaded],
        [name[len(prefix) :] for name in names if name not in set(loaded)],
        found.left_out + left_out + unexpected + list(mismatched),
        file.metadata,
        file.source,
    )


def _part(name: str) -> str:
    return name.partition(".")[0]


def _of_other_parts(
    path: str, own: Mapping[str, Any], tensors: Mapping[str, StoredArray]
) -> List[str]:
    """Returns the file's tensors of parts that the network has not got, besides its backbone.

    A classifier needs no projector, and no twin, of what was pre-trained without labels.
    """
    if not all(any(name.startswith(_BACKBONE) for name in names) for names in (own, tensors)):
        return []
    parts = {_part(name) for name in own}
    others = [name for name in tensors if _part(name) not in parts]
    told = _told([name for name in others if not name.startswith(_HEAD)])
    if told:
        logger.info("%s: of other parts, and left aside: %s", path, told)
    return others


def _parts_that_stay(
    path: str,
    model: nn.Layer,
    own: Mapping[str, Any],
    tensors: Mapping[str, StoredArray],
    new_head: bool,
    publisher: str,
) -> List[str]:
    """Returns the parts of the network, but backbone and head, that keep their initial values.

    Those are, with ``new_head``, the ones that the file has not got or has in other shapes; without
    it, those for training alone that it has not got.
    """
    stay = []
    for part in dict.fromkeys(map(_part, own)):
        if part in (_part(_BACKBONE), _part(_HEAD)):
            continue
        here, there = (
            {name: tuple(t.shape) for name, t in given.items() if _part(name) == part}
            for given in (own, tensors)
        )
        for name, shape in there.items():
            if here.get(name, shape) != shape and _adapted(model, name, shape, publisher):
                there[name] = here[name]
        for_training = part in getattr(model, "training_parts", ())
        if there != here if new_head else (for_training and not there):
            stay.append(part)
    told = _told([name for name in own if _part(name) in stay])
    if told and new_head:
        logger.info("%s: has none of these that fit, so they begin anew: %s", path, told)
    elif told:
        logger.info("%s: enough without what is for training alone: %s", path, told)
    return stay


def _told(names: Sequence[str]) -> str:
    """Returns the parts that tensors belong to, and how many of each, as text."""
    parts = [_part(name) for name in names]
    return ", ".join(f"{part} ({parts.count(part)} tensors)" for part in dict.fromkeys(parts))


def _check_gelu(model: nn.Layer, file: WeightFile, parts: Container[str]) -> None:
    """Compares the GELU of towers that take weights with the one that the file's were trained with.

    Raises:
        PasslError: it is known, and another one.
    """
    towers = {"backbone": getattr(model, "backbone", model), "text": getattr(model, "text", None)}
    here = {
        part: tower.quick_gelu
        for part, tower in towers.items()
        if part in parts and hasattr(tower, QUICK_GELU)
    }
    if not here:
        return
    there, source = quick_gelu_of(file)
    words = {True: "QuickGELU", False: "the exact GELU"}
    wrong = [part for part, quick in here.items() if there.get(part, quick) != quick]
    if wrong:
        quick = there[wrong[0]]
        keys = " ".join(
            f"-o model.{SETTINGS[part]}.{QUICK_GELU}={str(there[part]).lower()}" for part in wrong
        )
        raise PasslError(
            f"{file.path}: was trained with {words[quick]} ({source}), the model has "
            f"{words[not quick]}, with which its answers are worse; set  {keys}"
        )
    unknown = [part for part in here if part not in there]
    if unknown:
        taken = " and ".join(dict.fromkeys(words[here[part]] for part in unknown))
        logger.info(
            "%s: does not tell which GELU it was trained with%s; %s is taken (%s)",
            file.path, f" ({source})" if source else "", taken,
            ", ".join(f"model.{SETTINGS[part]}.{QUICK_GELU}" for part in unknown),
        )  # fmt: skip


def _check_finite(path: str, name: str, array: np.ndarray) -> None:
    floating = array.dtype == BFLOAT16 or array.dtype.kind == "f"
    if floating and not (finite := np.isfinite(array)).all():
        raise PasslError(
            f"{path}: {array.size - np.count_nonzero(finite)} of the {array.size} numbers of "
            f"'{name}' are not finite (NaN or infinity); no answer comes of it, take another file"
        )


def data_of(metadata: Mapping[str, Any], publisher: str) -> Optional[str]:
    """Returns the data set that weights were trained on, as configs call it; None: unknown.

    Args:
        metadata: what PASSL recorded in the file.
        publisher: whose names its tensors have.
    """
    if not metadata:
        return None if publisher == OWN else IMAGENET
    found: Any = metadata.get("config")
    for key in ("dataloader", "train", "dataset", "name"):
        found = found.get(key) if isinstance(found, dict) else None
    return found or metadata.get("data")


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == BFLOAT16 else array


def _other_head(own: Dict[str, Any], tensors: Dict[str, StoredArray]) -> bool:
    heads = [{n: tuple(t.shape) for n, t in part.items() if n.startswith(_HEAD)}
             for part in (own, tensors)]  # fmt: skip
    return heads[0] != heads[1]


def _other_classes(
    own: Dict[str, Any],
    tensors: Dict[str, StoredArray],
    recorded: Optional[Sequence[str]],
    class_names: Optional[Sequence[str]],
) -> bool:
    """Tells whether both heads' classes have names, and other ones or in another order.

    And whether the heads differ in nothing else.
    """
    if recorded is None or class_names is None or list(recorded) == list(class_names):
        return False
    counts = (len(recorded), len(class_names))
    return counts == (_classes(tensors), _classes(own)) and all(
        tuple(array.shape)[:-1] == tuple(own[name].shape)[:-1]
        for name, array in tensors.items()
        if name.startswith(_HEAD) and name in own
    )


def _with_rows_by_name(
    own: Dict[str, Any],
    tensors: Dict[str, StoredArray],
    file: WeightFile,
    class_names: Sequence[str],
) -> Dict[str, StoredArray]:
    """Returns the tensors with a head for the network's classes.

    Of a head's parameters the last axis counts classes. What the file's head knows of a class is
    taken; the others keep their initial values.
    """
    there = {name: i for i, name in enumerate(file.metadata["class_names"])}
    common = [(j, there[name]) for j, name in enumerate(class_names) if name in there]
    new = [name for name in class_names if name not in there]
    if common:
        logger.info(
            "%s: of its head the rows of %d classes with the same name are taken (%s)%s",
            file.path, len(common), first_of([class_names[j] for j, _ in common], _SHOWN),
            f"; those of {len(new)} begin anew ({first_of(new, _SHOWN)})" if new else "",
        )  # fmt: skip
    else:
        logger.info("%s: its head knows none of the classes, so the head begins anew", file.path)
    merged = dict(tensors)
    for name, array in tensors.items():
        if name.startswith(_HEAD) and name in own:
            merged[name] = StoredArray(
                tuple(own[name].shape),
                array.dtype,
                functools.partial(_rows, own[name], array, common),
            )
    return merged


def _rows(own: paddle.Tensor, array: StoredArray, common: List[Tuple[int, int]]) -> np.ndarray:
    rows = own.astype("float32").numpy().copy()
    to, source = ([pair[i] for pair in common] for i in (0, 1))
    rows[..., to] = _plain(array.read())[..., source]
    return rows


def _classes(tensors: Dict[str, Any]) -> int:
    return next((t.shape[-1] for name, t in tensors.items() if name.startswith(_HEAD)), 0)


def count_classes(file: WeightFile, released_names: ReleasedNames) -> int:
    """Returns the number of classes that a file's head distinguishes; 0 where it has no head."""
    return _classes(translate(file, released_names).tensors)


def _fit(
    model: nn.Layer, own: Dict[str, Any], tensors: Dict[str, StoredArray], publisher: str
) -> Tuple[Dict[str, StoredArray], Dict[str, str], str]:
    """Returns what fits, what does not and why, and what was done to make something fit."""
    fitting, mismatched, resized = {}, {}, ""
    for name, array in tensors.items():
        if name not in own:
            fitting[name] = array
            continue
        shape = tuple(own[name].shape)
        if not _same_kind(array.dtype, own[name].dtype):
            mismatched[name] = f"holds {array.dtype}, no weights"
        elif array.shape == shape:
            fitting[name] = array
        else:
            adapted = _adapted(model, name, array.shape, publisher)
            if adapted:
                change, done = adapted
                resized = f"{resized}; {done}" if resized else done
                fitting[name] = StoredArray(
                    shape, array.dtype, lambda array=array, change=change: change(array.read())
                )
            else:
                mismatched[name] = f"(file {list(array.shape)}, model {list(shape)})"
    return fitting, mismatched, resized


def _adapted(model: nn.Layer, name: str, shape: Sequence[int], publisher: str) -> Any:
    """Returns what the part that a tensor belongs to makes of one of another shape, if anything."""
    part, _, rest = name.partition(".")
    adapt = getattr(getattr(model, part, model), "adapt_weight", None)
    return adapt and adapt(rest, shape, publisher)


def _same_kind(dtype: np.dtype, own: paddle.dtype) -> bool:
    floating = dtype == BFLOAT16 or dtype.kind == "f"
    return floating == ("float" in str(own))


def _list(title: str, names: List[str]) -> List[str]:
    return [f"{len(names)} {title}: {first_of(names, _SHOWN)}"] if names else []
