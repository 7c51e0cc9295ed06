"""Classification by what classes are called: no image of them is learned from.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv
2103.00020, section 3.1: the name of a class is put into sentences; the mean of their embeddings is
what images are compared with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import ftfy
import numpy as np
import paddle
from tqdm import tqdm

from passl.datasets import ImageDataset, Loader
from passl.datasets.sources.class_names import (
    imagenet_classes,
    read_class_names,
    readable_names,
)
from passl.distributed.processes import Processes
from passl.evaluation.base import ALONE, Evaluation
from passl.evaluation.classification import Classification
from passl.evaluation.gathering import in_order
from passl.evaluation.registry import EVALUATORS
from passl.modeling.architectures import Architecture
from passl.modeling.layers.embeddings import unit
from passl.tokenization import without_padding
from passl.utils.arrays import add_arrays
from passl.utils.cache import cache_folder, forget_the_oldest
from passl.utils.errors import PasslError, shown
from passl.utils.logging import interactive, logger
from passl.utils.whole_files import replacing

_FOLDER = Path(__file__).parent  # the lists beside are described in imagenet_prompts.md
IMAGENET = "imagenet"
PLAIN = "a photo of a {}."
OF_LABELS = "a photo of {}."  # which come with their article
# The seven that section "Prompt engineering" of the authors' notebook ends with, which are better
# than all eighty with their smaller networks.
_SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_PROMPTS = 256  # that are embedded at a time
_CLASSIFIERS_KEPT = 16
_WNID = re.compile(r"n[0-9]{8}")


@EVALUATORS.register
class ZeroShot(Classification):
    """Top-1 and Top-5 where classes are told apart by their names alone.

    Each name is put into each template; the embeddings of these sentences are normalised, their
    mean over the templates as well, and images are compared with that by cosine similarity. Equal
    similarities rank by class number; a record has ``ties`` where the label's class shares its
    similarity with another one.

    The embeddings of the classes are kept in the cache folder, by the content of the text tower,
    the names and the templates; not those of a network in training, which is another one each time.

    Args:
        class_names: ``imagenet`` for what CLIP's authors call ImageNet's classes; a text file with
            a name a line, in the order of the labels; or None for the set's own, in which ``_`` is
            read as a space, and of ImageNet's identifiers the words they stand for.
        templates: ``imagenet`` (80 sentences), ``imagenet_7`` (seven of them), a text file with one
            a line, or a list of them; ``{}`` stands for the name.

    Attributes:
        names: of the classes, after ``check``.
    """

    def __init__(
        self,
        class_names: Optional[str] = None,
        templates: Union[str, Sequence[str]] = (PLAIN,),
    ):
        self.class_names = class_names
        self.templates = read_templates(templates)
        self.names = []

    def check(self, dataset: ImageDataset) -> None:
        super().check(dataset)
        own = dataset.class_names
        if self.class_names == IMAGENET:
            names = imagenet_names()
            # A set that lacks some classes would number the rest otherwise.
            if own is not None and all(map(_WNID.fullmatch, own)):
                dataset.use_classes([wnid for wnid, _ in imagenet_classes()])
        elif self.class_names is not None:
            names = read_class_names(Path(self.class_names))
        elif own is None:
            raise PasslError(
                f"{dataset.where(0)}: the set has no names of classes, which zero-shot "
                "classification needs; name a file of them, one a line in the order of the labels: "
                "evaluate.evaluator.class_names"
            )
        else:
            names = names_as_words(own)
        highest = int(dataset.labels.argmax())
        if dataset.labels[highest] >= len(names):
            raise PasslError(
                f"{dataset.where(highest)}: label {int(dataset.labels[highest])}, but there are "
                f"{len(names)} names of classes ({self.class_names or 'those of the set'})"
            )
        self.names = names

    def measure(
        self, evaluation: Evaluation, loader: Loader, also: Mapping[str, Loader]
    ) -> Dict[str, Any]:
        network = evaluation.architecture
        classifier = zero_shot_classifier(
            network, self.names, self.templates, evaluation.processes, not evaluation.learning
        )
        network.use_classifier(classifier)
        ties = 0

        def count(outputs: Dict[str, Any], batch: Dict[str, Any]) -> None:
            nonlocal ties
            logits = outputs["logits"]
            own = paddle.take_along_axis(logits, batch["label"].unsqueeze(1), axis=1)
            ties += int(((logits == own).astype("int64").sum(axis=1) > 1).sum())

        with evaluation.also_looking(count):
            result = super().measure(evaluation, loader, also)
        (ties,) = evaluation.sum([ties])
        result.update(classes=len(self.names), templates=len(self.templates))
        return {**result, "ties": int(ties)} if ties else result


def names_as_words(class_names: Sequence[str]) -> List[str]:
    """Returns what classes of these names are called in a sentence: see ``ZeroShot``."""
    return [name.replace("_", " ") for name in readable_names(len(class_names), class_names)]


def imagenet_names() -> List[str]:
    """Returns what CLIP's authors call the 1,000 classes of ImageNet."""
    return _lines(_FOLDER / "imagenet_names.txt")


def read_templates(given: Union[str, Sequence[str]]) -> List[str]:
    """Returns templates, see ``ZeroShot``.

    Raises:
        PasslError: no such file, none in it, or one without ``{}``.
    """
    place = ""
    if given == IMAGENET:
        found: Sequence[str] = _lines(_FOLDER / "imagenet_templates.txt")
    elif given == "imagenet_7":
        found = _SEVEN
    elif isinstance(given, str):
        found, place = read_class_names(Path(given)), f"{given}: "
    else:
        found = list(given)
    if not found:
        raise PasslError("templates is a list of sentences, at least one, such as 'a photo of {}'")
    for template in found:
        if "{}" not in template:
            raise PasslError(
                f"{place}a template has {{}} where the name of the class goes: {shown(template)}"
            )
    return list(found)


def zero_shot_classifier(
    network: Architecture,
    names: Sequence[str],
    templates: Sequence[str],
    processes: Processes = ALONE,
    keep: bool = True,
) -> paddle.Tensor:
    """Returns what images are compared with to tell classes apart, float32 ``[K, d]``.

    Args:
        network: has ``embed_texts``, ``tokenizer`` and ``context``.
        names: of the K classes.
        templates: sentences with ``{}`` for the name.
        processes: those that compute together; all must call this, and get the same.
        keep: whether to look for it in the cache folder, and to keep it there.

    Raises:
        PasslError: a network that embeds no texts.
    """
    if not hasattr(network, "embed_texts"):
        raise PasslError(
            f"zero-shot classification compares images with texts, and {type(network).__name__} "
            "embeds no texts; take a model of name CLIP"
        )
    kept = _kept(network, names, templates) if keep and processes.is_first else None
    with contextlib.suppress(Exception):  # a damaged file is made anew
        if kept is not None and processes.size == 1 and kept.is_file():
            found = np.load(kept)
            if found.shape == (len(names), network.embed_dim):
                os.utime(kept)  # those that nobody uses are forgotten first
                return paddle.to_tensor(found)
    different = list(dict.fromkeys(names))  # equal names are one class to the text tower
    mine = range(processes.rank, len(different), processes.size)
    parts = [_embedded([different[i] for i in mine], templates, network, processes)] if mine else []
    rows = in_order(parts, np.array(mine, np.int64))
    place = {name: i for i, name in enumerate(different)}
    classifier = rows[[place[name] for name in names]]
    if kept is not None:
        _keep(kept, classifier)
    return paddle.to_tensor(classifier)


@paddle.no_grad()
def _embedded(
    names: Sequence[str], templates: Sequence[str], network: Architecture, processes: Processes
) -> np.ndarray:
    """Returns the embedding of each class, float32 ``[n, d]``.

    Sentences of like lengths are embedded together, cut to the longest: most of CLIP's 77 places
    are empty, and what stands behind a sentence changes nothing.
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    ids, cut = network.tokenizer(prompts, network.context)
    if cut:
        logger.warning("%d of %d prompts were too long and were cut", cut, len(prompts))
    end = network.tokenizer.end
    order = np.argsort((ids == end).argmax(axis=1), kind="stable")
    found = np.zeros((len(prompts), network.embed_dim), np.float32)
    was_training = network.training
    network.eval()
    with tqdm(
        total=len(prompts), desc="class names", unit="prompt", leave=False,
        disable=not interactive() or not processes.is_first,
    ) as bar:  # fmt: skip
        for begin in range(0, len(prompts), _PROMPTS):
            chunk = order[begin : begin + _PROMPTS]
            texts = paddle.to_tensor(without_padding(ids[chunk], end))
            found[chunk] = unit(network.embed_texts(texts)).astype("float32").numpy()
            bar.update(len(chunk))
    if was_training:
        network.train()
    means = found.reshape(len(names), len(templates), -1).mean(axis=1)
    return unit(paddle.to_tensor(means)).numpy()


def _kept(network: Architecture, names: Sequence[str], templates: Sequence[str]) -> Optional[Path]:
    """Returns where the classifier of this content is kept; None where nothing can be."""
    folder = cache_folder("zero_shot")
    if folder is None:
        return None
    digest = hashlib.sha256()
    tokenizer = network.tokenizer
    facts = [type(tokenizer).__name__, str(tokenizer.size), str(network.context), ftfy.__version__]
    facts += [paddle.__version__, *names, "", *templates]
    digest.update("\0".join(facts).encode("utf-8", "surrogateescape"))
    state = network.state_dict()
    add_arrays(digest, {name: state[name] for name in state if name.startswith("text")})
    for layer in network.text.sublayers():  # an activation is no weight
        digest.update(type(layer).__name__.encode())
    return folder / f"{digest.hexdigest()}.npy"


def _keep(path: Path, classifier: np.ndarray) -> None:
    with contextlib.suppress(OSError):  # a read-only home
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside, open(aside, "wb") as file:
            np.save(file, classifier)
    forget_the_oldest(path.parent, "*.npy", _CLASSIFIERS_KEPT)


def _lines(file: Path) -> List[str]:
    return file.read_text(encoding="utf-8").splitlines()
