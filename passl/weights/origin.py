"""Where weights come from: what a checkpoint tells of its run, for files that hold a part of it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from passl.utils.text import visible

_LONGEST = 60  # characters of a name in a message
_DIGITS = 12  # of a hash


def origin_of_weights(
    metadata: Mapping[str, Any], data: Optional[str] = None, evaluated: bool = True
) -> Dict[str, Any]:
    """Returns how weights were made, as far as a file tells.

    Args:
        metadata: what PASSL recorded in the file: a checkpoint, or what was converted from one.
        data: the name of the data set, where it is known.
        evaluated: whether its record of an evaluation is one of the weights that are meant; a
            momentum encoder's are not those that were evaluated.

    Returns:
        ``method`` (the name of the architecture), ``architecture`` (the config of the backbone),
        ``data`` and ``images`` (the data set, and how many images it has), ``epochs``,
        ``images_seen``, ``begun_from`` (the release or address of fetched weights, see
        ``passl.weights.named.Source``), and ``evaluation``, the record of the weights themselves
        where they were evaluated; nothing where nothing is known.
    """
    handed_on, config = metadata.get("origin"), metadata.get("config")
    progress = _mapping(metadata.get("progress"))
    if isinstance(handed_on, Mapping):
        found = dict(handed_on)
    elif isinstance(config, Mapping) and progress:
        model = _mapping(config.get("model"))
        found = {
            "method": model.get("name", "Classifier"),
            "architecture": model.get("architecture"),
        }
        if data is not None:
            found["data"] = data
        if _are_numbers(metadata, "samples_seen", "samples") and metadata["samples"] > 0:
            seen, images = metadata["samples_seen"], metadata["samples"]
            found.update(images=images, epochs=round(seen / images, 2), images_seen=seen)
        if metadata.get("pretrained_source"):
            found["begun_from"] = metadata["pretrained_source"]
        record = _mapping(progress.get("evaluation") or progress.get("best"))
        if record and record.get("step") == progress.get("step"):
            found["evaluation"] = dict(record)
    else:
        return {}
    if not evaluated:
        found.pop("evaluation", None)
    return found


def describe_origin(origin: Any) -> Optional[str]:
    """Returns in words how weights were made; None where nothing is known.

    Args:
        origin: see ``origin_of_weights``; anybody may have written it into a file, so that what is
            not of its kind is passed over.
    """
    origin = _mapping(origin)
    method = origin.get("method")
    if not isinstance(method, str):
        return None
    text = f"trained by {_name(method)}"
    if origin.get("part") == "twin":
        text += " (its momentum encoder)"
    begun_from = _mapping(origin.get("begun_from"))
    name = begun_from.get("release") or begun_from.get("address")
    if isinstance(name, str) and isinstance(begun_from.get("sha256"), str):
        text += f" from {_name(name)} (SHA-256 {_name(begun_from['sha256'][:_DIGITS])}…)"
    images = [f"{origin['images']:,} images"] if _are_numbers(origin, "images") else []
    data = [_name(origin["data"])] if isinstance(origin.get("data"), str) else []
    if images or data:
        text += f" on {' of '.join(images + data)}"
    if _are_numbers(origin, "epochs"):
        text += f", {origin['epochs']:g} epochs"
    record = _mapping(origin.get("evaluation"))
    if _are_numbers(record, "knn_top1", "k", "temperature", "bank", "samples"):
        text += (
            f", kNN Top-1 {record['knn_top1']:.2f} % (k {record['k']}, "
            f"T {record['temperature']:g}, bank {record['bank']:,}, {record['samples']:,} images)"
        )
    elif _are_numbers(record, "top1", "samples"):
        text += f", Top-1 {record['top1']:.2f} % of {record['samples']:,} images"
    return text


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _name(text: str) -> str:
    return visible(text[:_LONGEST]).replace("\n", " ")


def _are_numbers(record: Mapping[str, Any], *keys: str) -> bool:
    values: List[Any] = [record.get(key) for key in keys]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
