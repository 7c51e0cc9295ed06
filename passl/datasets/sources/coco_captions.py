"""COCO's captions, and Karpathy's splits of COCO, Flickr8k and Flickr30k.

Both are one object in JSON. COCO's (https://cocodataset.org/#format-data): ``images`` with ``id``
and ``file_name``, and ``annotations`` with ``image_id`` and ``caption``. Karpathy's (Karpathy and
Fei-Fei, arXiv 1412.2306): ``images`` with ``filename``, ``split`` and ``sentences``, each of which
has its text as ``raw``; those of COCO also with ``filepath``, the folder.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from passl.datasets.registry import DATASETS
from passl.datasets.sources.caption_texts import texts_of
from passl.datasets.sources.catalog import (
    Catalog,
    GrowingCaptions,
    GrowingNames,
    by_image,
    cached,
)
from passl.datasets.sources.files import existing_file, existing_folder
from passl.datasets.sources.image_files import count, passed_over_text
from passl.datasets.sources.pairs import EMPTY, NONE, ImageTextDataset
from passl.utils.errors import PasslError, first_of, shown
from passl.utils.system_errors import explain_os_error

# An image and its captions, as the file has them.
_Images = Iterable[Tuple[str, List[Any]]]


@DATASETS.register
class CocoCaptions(ImageTextDataset):
    """COCO's ``captions_*.json``, or the file of one of Karpathy's splits.

    Which of them a file is, is seen in it. Images are looked for where its paths lead from
    ``dataroot``, and in the folders there that are usual: ``val2017`` for
    ``captions_val2017.json``, ``images``, ``flickr30k-images`` and the like.

    Args:
        dataroot: the folder of the images, or the one above it.
        list_file: the file, relative to the working folder, or else to ``dataroot``.
        split: of Karpathy's: ``train``, ``val``, ``test`` or, of COCO, ``restval``; several with a
            plus, ``train+restval``, which are 113,287 images of COCO.
        subset: part of the images: ``[:90%]`` or ``[90%:]``; the captions of an image stay
            together.
        transforms: configs of the sample transforms.

    Raises:
        PasslError: a missing file, one that is none of the two, or a split that it has not.
    """

    def __init__(
        self,
        dataroot: str,
        list_file: str,
        split: Optional[str] = None,
        subset: Optional[str] = None,
        transforms: Sequence[Mapping[str, Any]] = (),
    ):
        root = existing_folder(dataroot)
        file = existing_file(root, list_file)
        kind = f"captions, {file.absolute()}, {split}"
        catalog = cached(root, kind, lambda: _read(root, file, split))
        super().__init__(catalog, subset, transforms)


def _read(root: str, file: Path, split: Optional[str]) -> Catalog:
    content = _content(file)
    images = content.get("images")
    passed_over: Dict[str, int] = {}
    try:
        if "annotations" in content and isinstance(images, list):
            if split is not None:
                raise PasslError(
                    f"{file}: is of one split, as COCO's files are; leave split out, or take "
                    "Karpathy's (dataset_coco.json)"
                )
            found: _Images = _coco(file, images, content["annotations"], passed_over)
        elif isinstance(images, list) and images and "sentences" in images[0]:
            found = _karpathy(file, images, split)
        else:
            raise PasslError(
                f"{file}: has {first_of(list(content), 6) or 'nothing'}, where COCO's captions "
                "have images and annotations, and Karpathy's splits images with sentences"
            )
        paths, captions = GrowingNames(), GrowingCaptions()
        for path, values in found:
            given = texts_of(values)
            if len(given) < len(values):
                count(passed_over, EMPTY, len(values) - len(given))
            if not given:
                count(passed_over, NONE)
                continue
            paths.add(path)
            captions.add(given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, PasslError):
            raise
        what = f"an entry lacks {error}" if isinstance(error, KeyError) else f"an entry: {error}"
        raise PasslError(f"{file}: is damaged, or of another kind ({what})") from None
    if not len(paths):
        beside = f" ({passed_over_text(passed_over)})" if passed_over else ""
        raise PasslError(f"{file}: no image in it has a caption{beside}")
    names, packed = by_image(paths.names(), captions.captions())
    folder = _folder(root, file, names[0])
    if folder:
        moved = GrowingNames()
        for i in range(len(names)):
            moved.add(f"{folder}/{names[i]}")
        names = moved.names()
    watched = [str(file.absolute())]
    return Catalog(root, names, None, watched=watched, passed_over=passed_over, captions=packed)


def _content(file: Path) -> Dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise explain_os_error(error, file, "read") from None
    except UnicodeDecodeError:
        raise PasslError(f"{file}: is not UTF-8 but another encoding; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            raise PasslError(
                f"{file}: goes on behind its first object; where each line is one, call it .jsonl "
                "and take ImageTextList"
            ) from None
        raise PasslError(f"{file}: is no JSON, or cut short ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise PasslError(
            f"{file}: is a list, where COCO's captions and Karpathy's splits are an object; write "
            "an entry a line (.jsonl) for ImageTextList"
        )
    return content


def _coco(
    file: Path, images: List[Any], annotations: List[Any], passed_over: Dict[str, int]
) -> _Images:
    """Returns the images of COCO's file in its order, each with its captions in their order."""
    captions: Dict[Any, List[Any]] = {image["id"]: [] for image in images}
    if annotations and "caption" not in annotations[0]:
        raise PasslError(
            f"{file}: its annotations have {first_of(list(annotations[0]), 6)}, and no caption; "
            "take captions_*.json"
        )
    for annotation in annotations:
        if annotation["image_id"] in captions:
            captions[annotation["image_id"]].append(annotation["caption"])
        else:
            count(passed_over, "caption{s} of images that the file does not list")
    return [(image["file_name"], captions[image["id"]]) for image in images]


def _karpathy(file: Path, images: List[Any], split: Optional[str]) -> _Images:
    """Returns the images of some splits, each with its captions."""
    wanted = None if split is None else [name.strip() for name in split.split("+")]
    sizes = Counter(image["split"] for image in images)
    for name in wanted or ():
        if name not in sizes:
            known = ", ".join(f"{own} ({size:,} images)" for own, size in sizes.items())
            raise PasslError(f"{file}: has no split '{name}', but {known}")
    return [
        (
            os.path.join(image.get("filepath") or "", image["filename"]),
            [sentence["raw"] for sentence in image["sentences"]],
        )
        for image in images
        if wanted is None or image["split"] in wanted
    ]


def _folder(root: str, file: Path, path: str) -> str:
    """Returns the folder below ``root`` that paths start from; "" is ``root`` itself.

    Raises:
        PasslError: the first image is in none.
    """
    part = file.stem.partition("_")[2]
    folders = ["", part, "images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset"]
    for folder in dict.fromkeys(folders):
        if os.path.isfile(os.path.join(root, folder, path)):
            return folder
    tried = ", ".join(name for name in dict.fromkeys(folders) if name)
    raise PasslError(
        f"{file}: its first image, {shown(path)}, is not in {shown(root)}, nor in its folders "
        f"{tried}; set dataroot to the folder of the images"
    )
