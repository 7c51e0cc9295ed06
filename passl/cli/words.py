"""What a network of CLIP is to tell apart, as a command line says it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import List, Optional

import paddle

from passl.datasets.sources.class_names import imagenet_classes, read_class_names
from passl.evaluation.zero_shot import (
    IMAGENET,
    OF_LABELS,
    imagenet_names,
    read_templates,
    zero_shot_classifier,
)
from passl.modeling.architectures import Architecture
from passl.utils.errors import PasslError


@dataclasses.dataclass(frozen=True)
class Words:
    """Names of classes, and the sentences that they are put into.

    Attributes:
        names: as answers show them.
        templates: with ``{}`` for the name.
        recorded: what weights for these classes note of them; ImageNet's identifiers for its own.
    """

    names: List[str]
    templates: List[str]
    recorded: List[str]

    def classifier(self, network: Architecture) -> paddle.Tensor:
        """Returns what images are compared with, see ``zero_shot_classifier``."""
        return zero_shot_classifier(network, self.names, self.templates)


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds ``--labels`` and ``--template``, for commands that use a network of CLIP."""
    parser.add_argument(
        "--labels", metavar="NAMES",
        help="with CLIP, what to tell apart: words with commas between them ('a cat,a dog'), "
        f"instead of --class-names, which here also takes {IMAGENET}",
    )  # fmt: skip
    parser.add_argument(
        "--template", action="append", metavar="TEXT",
        help="with CLIP, a sentence with {} for the words; may be repeated, for the mean of "
        f"several; or {IMAGENET}, for the 80 of CLIP's authors (default: '{OF_LABELS}')",
    )  # fmt: skip


def words_of(arguments: argparse.Namespace, network: Architecture) -> Optional[Words]:
    """Returns what the network is to tell apart; None where it has classes of its own.

    Raises:
        PasslError: words for a network that takes none, none for one that needs them, or such that
            cannot be told apart.
    """
    if not hasattr(network, "use_classifier"):
        if arguments.labels is not None or arguments.template:
            raise PasslError(
                "--labels and --template are for networks that compare images with texts, and this "
                "one has classes of its own; leave them out, or take a config of CLIP"
            )
        return None
    if arguments.labels is not None:
        if arguments.class_names is not None:
            raise PasslError("--labels and --class-names both say what to tell apart; take one")
        names = recorded = _labels(arguments.labels)
    elif arguments.class_names == IMAGENET:
        names, recorded = imagenet_names(), [wnid for wnid, _ in imagenet_classes()]
    elif arguments.class_names is not None:
        names = recorded = read_class_names(Path(arguments.class_names))
    else:
        raise PasslError(
            f"{type(network).__name__} tells apart what it is told to: --labels 'a cat,a dog', "
            "or --class-names FILE with a name a line"
        )
    templates = arguments.template or [OF_LABELS]
    return Words(
        names, read_templates(IMAGENET if templates == [IMAGENET] else templates), recorded
    )


def _labels(text: str) -> List[str]:
    labels = [label.strip() for label in text.split(",")]
    if len(labels) < 2 or "" in labels or len(set(labels)) < len(labels):
        raise PasslError(
            f"--labels '{text}': has at least two different words or sentences with commas between "
            "them, and none is empty: 'a cat,a dog'"
        )
    return labels
