"""``passl predict``: what a network says of images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional

import numpy as np
from tqdm import tqdm

from passl.cli.common import (
    add_class_names,
    add_config_arguments,
    add_weights,
    config_of,
    make_parser,
    names_of_classes,
    run_command,
    write_json,
)
from passl.cli.named_images import add_images, open_images
from passl.datasets.sources.class_names import read_class_names
from passl.datasets.sources.paths import ImagePaths
from passl.deployment.predictor import Prediction, predict
from passl.evaluation.zero_shot import read_templates, zero_shot_classifier
from passl.utils.commands import command
from passl.utils.errors import PasslError
from passl.utils.logging import interactive, logger
from passl.utils.whole_files import filling, replacing

_SHEET = 48  # pictures of a contact sheet
_TEMPLATE = "a photo of {}."


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Name what is in images: the most probable classes of each.",
        f"  {command('predict')} -c mlp-mixer_b16_224 --weights Mixer-B_16.npz cat.jpg dog.jpg\n"
        f"  {command('predict')} -c mlp-mixer_groceries --weights best.safetensors photos/ \\\n"
        "      --output output/predictions\n"
        f"  find photos -name '*.jpg' | {command('predict')} -c … --weights … - --topk 1\n"
        f"  {command('predict')} -c clip_vit_b32_224 --weights ViT-B-32.pt photos/ \\\n"
        "      --labels 'a cat,a dog'",
    )
    add_images(parser)
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR",
        help="write predictions.json and contact sheets of the images with their answers there",
    )  # fmt: skip
    add_class_names(parser)
    parser.add_argument(
        "--labels", metavar="NAMES",
        help="with CLIP, what to tell apart: words with commas between them ('a cat,a dog')",
    )  # fmt: skip
    parser.add_argument(
        "--template", action="append", metavar="TEXT",
        help="with --labels, or --class-names of CLIP, a sentence with {} for the words; may be "
        f"repeated, for the mean of several (default: '{_TEMPLATE}')",
    )  # fmt: skip
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="also write the answers to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if arguments.topk < 1:
        raise PasslError("--topk is at least 1")
    output = arguments.output
    cfg = config_of(arguments)
    section, architecture, report, loader = open_images(arguments, cfg)
    labels = _labels(arguments)
    if not labels and arguments.class_names and hasattr(architecture, "use_classifier"):
        labels = read_class_names(Path(arguments.class_names))
    if labels:
        templates = read_templates(arguments.template or [_TEMPLATE])
        classifier = zero_shot_classifier(architecture, labels, templates)
        architecture.use_classifier(classifier)
    elif hasattr(architecture, "use_classifier"):
        raise PasslError(
            f"{type(architecture).__name__} tells apart what it is told to: "
            "--labels 'a cat,a dog', "
            "or --class-names FILE with a name a line"
        )
    elif arguments.template:
        raise PasslError("--template is for CLIP, which reads sentences; leave it out")
    if not hasattr(architecture, "num_classes"):
        raise PasslError(
            f"{type(architecture).__name__} tells no classes apart: there is nothing to name; "
            f"{command('features')} shows what it makes of images"
        )
    names = labels or names_of_classes(architecture.num_classes, report, arguments, section)
    answers: List[Prediction] = []
    for answer in tqdm(
        predict(architecture, loader, names, arguments.topk),
        total=len(loader.dataset), unit="image", leave=False, disable=not interactive(),
    ):  # fmt: skip
        answers.append(answer)
        tqdm.write(_as_text(answer))
    if arguments.json:
        write_json(arguments.json, [answer.as_dict() for answer in answers])
    if output is not None:
        _write_answers(Path(output), loader.dataset, answers)


def _labels(arguments: argparse.Namespace) -> List[str]:
    """Returns the words of ``--labels``; none without it."""
    if arguments.labels is None:
        if arguments.template and arguments.class_names is None:
            raise PasslError("--template is for the words of --labels; add --labels 'a cat,a dog'")
        return []
    labels = [label.strip() for label in arguments.labels.split(",")]
    if len(labels) < 2 or "" in labels or len(set(labels)) < len(labels):
        raise PasslError(
            f"--labels '{arguments.labels}': has at least two different words or sentences with "
            "commas between them, and none is empty: 'a cat,a dog'"
        )
    if arguments.class_names is not None:
        raise PasslError("--labels and --class-names both say what to tell apart; leave one out")
    return labels


def _as_text(answer: Prediction) -> str:
    lines = [
        f"  {100 * probability:6.2f} %  {name}"
        for name, probability in zip(answer.names, answer.probabilities)
    ]
    return "\n".join([answer.path, *lines])


def _write_answers(folder: Path, dataset: ImagePaths, answers: List[Prediction]) -> None:
    """Writes ``predictions.json`` and contact sheets of the images with their answers."""
    # Imported late: what draws takes half a second.
    from passl.utils.contact_sheet import contact_sheet, in_rows
    from passl.utils.fonts import installed_fonts

    with filling(folder):
        write_json(str(folder / "predictions.json"), [answer.as_dict() for answer in answers])
        places = {path: place for place, path in enumerate(dataset.paths)}
        for begin in range(0, len(answers), _SHEET):
            cells = []
            for answer in answers[begin : begin + _SHEET]:
                pixels = np.asarray(dataset.read(places[answer.path]))
                name = installed_fonts().name_of(answer.names[0], answer.labels[0])
                first = f"{100 * answer.probabilities[0]:.1f} % {name}"
                cells.append((pixels, f"{first}\n{Path(answer.path).name}"))
            number = begin // _SHEET + 1
            sheet = contact_sheet(in_rows(cells))
            with replacing(folder / f"contact_sheet_{number:03d}.png") as aside:
                sheet.save(aside, format="PNG")
    logger.info("%s: predictions.json and contact sheets of %d images", folder, len(answers))


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv, answers=True, memory="lower --batch-size")


if __name__ == "__main__":
    sys.exit(main())
