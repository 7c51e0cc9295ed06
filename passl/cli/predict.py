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
    compare_with_zoo,
    config_of,
    load_named_weights,
    make_parser,
    names_of_classes,
    run_command,
    write_json,
)
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.datasets.view import evaluation_view
from passl.deployment.predictor import Prediction, features, predict, prediction_loader
from passl.modeling.architectures import build_architecture
from passl.utils.commands import command
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.logging import interactive, logger
from passl.utils.whole_files import filling, replacing

_SHEET = 48  # pictures of a contact sheet


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Name what is in images: the most probable classes of each, or its features.",
        f"  {command('predict')} -c mlp-mixer_b16_224 --weights Mixer-B_16.npz cat.jpg dog.jpg\n"
        f"  {command('predict')} -c mlp-mixer_groceries --weights best.safetensors photos/ \\\n"
        "      --output output/predictions\n"
        f"  find photos -name '*.jpg' | {command('predict')} -c … --weights … - --topk 1\n"
        f"  {command('predict')} -c … --weights … photos/ --features --output output/features",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files, folders with all images below them, or - for a list of such on the "
        "standard input, one a line",
    )  # fmt: skip
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR",
        help="write predictions.json and contact sheets of the images with their answers there",
    )  # fmt: skip
    add_class_names(parser)
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes (default: 5)")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images at a time; default: the config's"
    )
    parser.add_argument(
        "--features", action="store_true",
        help="write the pooled features of the backbone to features.npz instead (needs --output)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the answers to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if arguments.topk < 1 or (arguments.batch_size is not None and arguments.batch_size < 1):
        raise PasslError("--topk and --batch-size are at least 1")
    output = arguments.output
    if arguments.features and output is None:
        raise PasslError("--features writes a file: name a folder with --output")
    if arguments.features and arguments.class_names is not None:
        raise PasslError("features have no classes; leave --class-names or --features out")
    cfg = config_of(arguments)
    section = evaluation_view(cfg)
    paths = find_images(_given(arguments.images))
    select_device(cfg.device, cfg.tf32)
    architecture = build_architecture(cfg.model)
    report = load_named_weights(architecture, arguments, cfg)
    compare_with_zoo(Path(report.path), section)
    dataset = ImagePaths(paths, section.dataset.get("transforms") or ())
    dataset.max_pixels = section.loader.max_pixels
    batch_size = arguments.batch_size or section.sampler.batch_size
    loader = prediction_loader(dataset, section, batch_size)
    if arguments.features:
        found, rows = features(architecture, loader)
        _write_features(Path(output), found, rows)
        return
    names = names_of_classes(architecture.num_classes, report, arguments, section)
    answers: List[Prediction] = []
    for answer in tqdm(
        predict(architecture, loader, names, arguments.topk),
        total=len(paths), unit="image", leave=False, disable=not interactive(),
    ):  # fmt: skip
        answers.append(answer)
        tqdm.write(_as_text(answer))
    if arguments.json:
        write_json(arguments.json, [answer.as_dict() for answer in answers])
    if output is not None:
        _write_answers(Path(output), dataset, answers)


def _given(images: List[str]) -> List[str]:
    """Returns the paths, those on the standard input in the place of ``-``."""
    given: List[str] = []
    for place in images:
        given += _listed() if place == "-" else [place]
    if not given:
        raise PasslError("the standard input holds no path")
    return given


def _listed() -> List[str]:
    """Returns the paths on the standard input; lists made on Windows are taken as well."""
    lines = [line.rstrip("\r\n") for line in sys.stdin]
    if lines:
        lines[0] = lines[0].lstrip("\ufeff")
    if any("\0" in line for line in lines):
        raise PasslError(
            "the standard input holds NUL characters; give one path a line, in UTF-8 (UTF-16, or "
            "paths that end in NUL, are not read)"
        )
    return [line for line in lines if line.strip()]


def _as_text(answer: Prediction) -> str:
    lines = [
        f"  {100 * probability:6.2f} %  {name}"
        for name, probability in zip(answer.names, answer.probabilities)
    ]
    return "\n".join([answer.path, *lines])


def _write_features(folder: Path, paths: List[str], rows: np.ndarray) -> None:
    file = folder / "features.npz"
    with filling(folder), replacing(file) as aside, open(aside, "wb") as target:
        np.savez(target, paths=np.array(paths), features=rows)
    logger.info("%s: features of %d images, %d numbers each", file, *rows.shape)


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
