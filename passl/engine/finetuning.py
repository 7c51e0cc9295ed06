"""From the name of released weights and a folder of images to the config of a run."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, List, Optional, Sequence

from passl.datasets.sources.image_files import images_below
from passl.datasets.sources.layouts import class_folders
from passl.datasets.sources.parts import find_parts
from passl.utils import zoo
from passl.utils.config import Config, get_config, plain, shipped_configs
from passl.utils.errors import PasslError, first_of, suggest
from passl.utils.logging import logger
from passl.utils.zoo import Release

_RECIPE = "_own_images_finetune"
_HELD_OUT = 10  # % of the images, where no others are there to choose the checkpoint by
_MOST_HELD_OUT = 50


def find_release(name: str) -> Release:
    """Returns the release of a name, or the first one of a network.

    Args:
        name: of a release (``vit_s16_224.augreg_in21k``), or of a network (``vit_s16_224``).

    Raises:
        PasslError: the zoo has none.
    """
    known = zoo.releases()
    if name in known:
        return known[name]
    plain_name, networks = name.replace("-", "_"), zoo.networks()
    found = networks.get(plain_name, [])
    if not found:
        raise PasslError(
            f"no released weights are called '{name}'{suggest(plain_name, {*known, *networks})}; "
            "passl models lists them"
        )
    if len(found) > 1:
        logger.info(
            "%s: taking %s; also released: %s", name, found[0], first_of(found[1:], 6)
        )  # fmt: skip
    return known[found[0]]


def finetuning_config(
    release: Release,
    folder: str,
    output_dir: str,
    epochs: Optional[int] = None,
    overrides: Sequence[str] = (),
    suit: Callable[[Config], List[str]] = lambda cfg: [],
) -> Config:
    """Returns the config that fine-tunes released weights on images in class folders.

    It is the recipe of the family, ``configs/<family>/<family>_own_images_finetune.yaml``, with the
    network and the view of the release. Where there is no ``val``, a tenth of the images of each
    class is held out, or as much more as makes it one image of the smallest class.

    Args:
        release: where it begins.
        folder: with the parts ``train`` and perhaps ``val`` and ``test``, or class folders alone.
        output_dir: of the run.
        epochs: of the run, with a warm-up in proportion; by default the recipe's.
        overrides: of the user, which count most.
        suit: returns further ones, which suit the machine and the images, by a look at the config.

    Raises:
        PasslError: weights of a family without a recipe, or a folder without class folders.
    """
    recipe = _recipe_of(release)
    parts = find_parts(folder)
    base, theirs = get_config(recipe), get_config(release.config, release.overrides)
    ours: Dict[str, Any] = {
        "preprocessing": release.name,
        "output_dir": output_dir,
        "model.architecture": _architecture(theirs, base),
        "dataloader.train.dataset.transforms": [
            _of_size(transform, release)
            for transform in plain(base.dataloader.train.dataset.transforms)
        ],
        "dataloader.train.dataset.dataroot": parts["train"],
        "dataloader.val.dataset.dataroot": parts.get("val", parts["train"]),
    }
    if epochs is not None:
        ours["epochs"] = epochs
        warmup = base.lr_scheduler["warmup_epochs"] * epochs / base.epochs
        ours["lr_scheduler.warmup_epochs"] = warmup
    head = _head(theirs)
    if head is not None:
        ours["model.head"] = head
    if "val" not in parts:
        kept = 100 - _held_out(parts["train"])
        ours["dataloader.train.dataset.subset"] = f"[:{kept}%]"
        ours["dataloader.val.dataset.subset"] = f"[{kept}%:]"
    if "test" in parts:
        val = plain(base.dataloader.val)
        ours["dataloader.test"] = {
            "dataset": {"name": "ImageFolder", "dataroot": parts["test"]},
            "sampler": val["sampler"],
        }
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in ours.items()]
    cfg = get_config(recipe, [*given, *overrides])
    further = suit(cfg)
    return get_config(recipe, [*given, *further, *overrides]) if further else cfg


def _held_out(folder: str) -> int:
    """Returns how many % of each class to hold out."""
    counts = [len(images_below(folder, name, {})) for name in class_folders(folder)]
    smallest = min([count for count in counts if count > 1], default=1)
    # A class of n is cut at n · (1 - share), rounded.
    return min(_MOST_HELD_OUT, max(_HELD_OUT, math.ceil(50 / smallest) + 1))


def compares_words(theirs: Config) -> bool:
    """Tells whether the config of a release is of a network that compares images with words."""
    return theirs.model.get("name") == "CLIP"


def _recipe_of(release: Release) -> str:
    shipped = shipped_configs()
    family = shipped[release.config].parent
    recipes = [name for name in shipped if name.endswith(_RECIPE)]
    for name in recipes:
        if shipped[name].parent == family:
            return name
    raise PasslError(f"{release.name}: there is no recipe for {family.name}, but for {recipes}")


def _architecture(theirs: Config, recipe: Config) -> Dict[str, Any]:
    """Returns the config of the release's network, regularised as the recipe says."""
    architecture = plain(theirs.model["architecture"])
    ours = plain(recipe.model["architecture"])
    regular = ("drop_path_rate", "drop_path_rates", "drop_path_rescale")
    kept = {key: value for key, value in architecture.items() if key not in regular}
    return {**kept, **{key: ours[key] for key in regular if key in ours}}


def _head(theirs: Config) -> Optional[Dict[str, Any]]:
    """Returns the config of a head that the release's network needs; None for the recipe's."""
    model = plain(theirs.model)
    if compares_words(theirs):
        width = model["embed_dim"] if model.get("project_images", True) else None
        return {"name": "CosineHead", "num_classes": None, "embed_dim": width}
    if model["head"]["name"] == "ClassificationHead":
        return None
    return {"name": model["head"]["name"], "num_classes": None}


def _of_size(transform: Dict[str, Any], release: Release) -> Dict[str, Any]:
    """Returns a transform that gives images of the size that the release takes."""
    if "size" not in transform:
        return transform
    view = release.preprocessing
    return {**transform, "size": view.size, "interpolation": view.interpolation}


def batches(cfg: Config, fitting: int, samples: int) -> List[str]:
    """Returns overrides that make batches of as many images as fit, and no more than there are.

    Gradients of parts of a batch are added up, so that a small memory learns the same.

    Args:
        cfg: of the run, whose batch is wanted.
        fitting: images that fit into memory at a time, a power of two.
        samples: images to learn from.

    Raises:
        PasslError: fewer images than one batch of two.
    """
    wanted = cfg.dataloader.train.sampler.batch_size
    if samples < 2:
        raise PasslError(f"there are {samples} images to learn from; two are the least")
    while wanted > samples:
        wanted //= 2
    part = min(fitting, wanted)
    return [
        f"dataloader.train.sampler.batch_size={part}",
        f"dataloader.val.sampler.batch_size={part}",
        f"global_batch_size={part * max(1, wanted // part)}",
    ]
