"""Does the data fit the network? Asked before training or evaluation starts."""

from __future__ import annotations

import os
from typing import Optional, Sequence

import numpy as np
import paddle

from passl.datasets import ImageDataset, Loader, UnreadableImage
from passl.datasets.dataset import image_fields
from passl.datasets.sources import layouts
from passl.datasets.sources.files import ImageFolder
from passl.datasets.sources.pairs import ImageTextDataset
from passl.datasets.transforms.tokenize import Tokenize
from passl.datasets.transforms.views import Views
from passl.modeling.architectures import Architecture
from passl.utils.config import Config, origin_of
from passl.utils.errors import PasslError, first_of, listing, shown
from passl.utils.logging import logger

_CAPTIONS = 2000  # that are looked at
_WORTH_SAYING = 0.01  # pairs of equal captions in a batch


def check_images(
    architecture: Architecture, dataset: ImageDataset, section: Config, name: str, seed: int
) -> None:
    """Makes sure that the network takes a section's images, by the size of its first.

    What is wrong with ``val`` would otherwise be noticed after an epoch of training, and what is
    wrong with ``test`` at its end.

    Args:
        architecture: the network; it computes one forward pass.
        dataset: the set, for its transforms.
        section: the set's part of the config.
        name: of the section (``val``).
        seed: of the pixels.

    Raises:
        PasslError: the transforms fail, or the network cannot take what they give.
    """
    rng = np.random.default_rng(seed)
    was_training = architecture.training
    given, batch = "", {}
    try:
        sample = dataset[0]
        images = image_fields(sample)
        if not images:
            return
        given = " and ".join(f"uint8 {np.shape(sample[field])}" for field in images)
        loader = Loader(dataset, [], section.batch_transforms, batch_rng=lambda position: rng)
        batch = loader.made_up_batch(sample, 2, 1, rng)
        for field in images:
            if not paddle.is_floating_point(batch[field]):
                raise PasslError(
                    "batch_transforms has no Normalize, so that images reach the network as pixels "
                    f"({list(batch[field].shape)} of uint8); add {{name: Normalize, mean: [0.5, "
                    "0.5, 0.5], std: [0.5, 0.5, 0.5]}, or with the numbers of the weights"
                )
        architecture.eval()
        with paddle.no_grad():
            architecture(batch)
    except UnreadableImage:
        return  # what is to be done about it is decided where it is read in earnest
    except PasslError as error:
        error.place = error.place or f"{origin_of(section, 'dataset')}dataloader.{name}: "
        raise
    except (ValueError, TypeError, KeyError) as error:  # Paddle's, of shapes that do not fit
        if isinstance(error, KeyError) and batch and error.args[0] not in batch:
            raise PasslError(
                f"dataloader.{name}: the network needs the field {error.args[0]}, but a batch has "
                f"{', '.join(batch)}; its transforms or its data set must give it",
                place=origin_of(section, "dataset"),
            ) from error
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise PasslError(
            f"dataloader.{name}: the network cannot take what the transforms give ({given} an "
            f"image); look at the sizes and the channels: {last}",
            place=origin_of(section, "dataset"),
        ) from error
    finally:
        if was_training:
            architecture.train()


def check_views(architecture: Architecture, dataset: ImageDataset, section: Config) -> None:
    """Makes sure that training gets as many views of an image as it takes, and each once.

    Args:
        architecture: what learns.
        dataset: the training set.
        section: its part of the config.

    Raises:
        PasslError: another number of views; ``sampler.repeats`` and Views both.
    """
    views = [transform for transform in dataset.transforms if isinstance(transform, Views)]
    count = len(views[0].views) if views else 1
    # Parts of a user's own may make or take views in ways of their own.
    if architecture.views > 1 and count != architecture.views:
        raise PasslError(
            f"{type(architecture).__name__} learns from {architecture.views} views of each image, "
            f"but the transforms of dataloader.train make {count}; put {{name: Views, count: "
            f"{architecture.views}, transforms: […]}} around them",
            place=origin_of(section.dataset, "transforms"),
        )
    if views and section.sampler.repeats > 1:
        raise PasslError(
            f"sampler.repeats is {section.sampler.repeats}, but Views already makes several "
            "images of one; leave sampler.repeats out (1)",
            place=origin_of(section.sampler, "repeats"),
        )


def check_tokenizer(architecture: Architecture, dataset: ImageDataset, section: Config) -> None:
    """Makes sure that texts are read in training as in evaluation.

    Args:
        architecture: what learns; reads the texts of evaluations with its ``tokenizer``.
        dataset: the training set.
        section: its part of the config.

    Raises:
        PasslError: ``Tokenize`` has another one.
    """
    known = getattr(architecture, "tokenizer", None)
    for transform in dataset.transforms:
        if known is None or not isinstance(transform, Tokenize):
            continue
        own = transform.tokenizer
        if (type(own), own.size, own.end) != (type(known), known.size, known.end):
            raise PasslError(
                f"Tokenize makes the ids of training with {type(own).__name__}, the network reads "
                f"texts with {type(known).__name__}; give model.tokenizer and the tokenizer of "
                "Tokenize the same config",
                place=origin_of(section.dataset, "transforms"),
            )


def tell_of_captions(dataset: ImageDataset, global_batch: int) -> None:
    """Says what training on pairs meets: captions that are cut, and equal ones in a batch.

    Args:
        dataset: the training set.
        global_batch: images an optimizer step.
    """
    tokenizing = [t for t in dataset.transforms if isinstance(t, Tokenize)]
    if not tokenizing or not isinstance(dataset, ImageTextDataset):
        return
    tokenize, step = tokenizing[-1], max(1, len(dataset) // _CAPTIONS)
    looked_at = range(0, len(dataset), step)
    _, cut = tokenize.tokenizer([dataset.captions(i)[0] for i in looked_at], tokenize.context)
    if cut:
        logger.info(
            "%s: about %.1f %% of the captions have more than %d ids and are cut (%d of %d)",
            dataset.catalog.root, 100 * cut / len(looked_at), tokenize.context, cut, len(looked_at),
        )  # fmt: skip
    equal = dataset.equal_pairs(global_batch)
    if equal >= _WORTH_SAYING:
        logger.info(
            "%s: a batch of %d holds about %.2g pairs of images with the same caption, which count "
            "as wrong for one another", dataset.catalog.root, global_batch, equal,
        )  # fmt: skip


def check_classes(
    architecture: Architecture,
    dataset: ImageDataset,
    class_names: Optional[Sequence[str]],
    section: Config,
) -> None:
    """Makes sure that a label means the same to the data and to the network.

    Where both have class names the labels are numbered by name, so that a set that lacks some
    classes is still counted right.

    Args:
        architecture: its ``num_classes`` counts, where it has any.
        dataset: the set.
        class_names: what the network was or will be trained on, where that has names.
        section: the set's part of the config, for the message.

    Raises:
        PasslError: the labels do not fit.
    """
    num_classes = getattr(architecture, "num_classes", None)
    if num_classes is None:
        return
    place = origin_of(section, "dataset")
    own, root = dataset.class_names, section.dataset.get("dataroot", section.dataset.name)
    if dataset.labels is None:
        raise PasslError(
            f"{root}: is read without labels (labels: false), but the network tells {num_classes} "
            "classes apart; leave labels: false out, or take an architecture that needs no labels",
            place,
        )
    if own is not None and layouts.called_like_parts(own) and len(own) > 1:
        logger.warning(
            "%s: its classes are called %s, as the parts of a set are; is it one level too high?",
            root, listing(own),
        )  # fmt: skip
    if own is not None and class_names is not None:
        missing = len(class_names) - len(own)
        try:
            dataset.use_classes(class_names)
        except PasslError as error:
            error.args = (error.args[0] + _level_below(dataset, len(class_names)),)
            error.place = place
            raise
        if missing:
            logger.info("%s: has no image of %d classes", root, missing)
    if dataset.class_names is not None and len(dataset.class_names) != num_classes:
        count = len(dataset.class_names)
        named = first_of([shown(name) for name in dataset.class_names], 5)
        remedy = _level_below(dataset, num_classes) or f"; set -o model.head.num_classes={count}"
        raise PasslError(
            f"{root}: has {count} class{'es' if count > 1 else ''} ({named}), but "
            f"model.head.num_classes is {num_classes}{remedy}",
            place,
        )
    highest = int(dataset.labels.argmax())
    if dataset.labels[highest] >= num_classes:
        one_based = dataset.labels.min() == 1 and dataset.labels[highest] == num_classes
        raise PasslError(
            f"{dataset.where(highest)}: label {int(dataset.labels[highest])}, but the config's "
            f"model.head.num_classes is {num_classes}, so labels go from 0 to {num_classes - 1}"
            + ("; these begin at 1: take 1 from each" if one_based else ""),
            place,
        )


def _level_below(dataset: ImageDataset, wanted: int) -> str:
    """Says which folder to take where a class folder holds as many folders as there are classes."""
    if isinstance(dataset, ImageFolder):
        # Not class_names: those are text, which opens no folder whose name is none.
        for name in dataset.catalog.class_names or ():
            below = os.path.join(dataset.catalog.root, name)
            if wanted > 1 and len(layouts.class_folders(below)) == wanted:
                return f"; {shown(below)} holds {wanted} folders: set dataroot to it"
    return ""
