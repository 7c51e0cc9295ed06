"""``passl finetune``: from released weights and a folder of images to a network of one's own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional

from passl.cli import eval as evaluation
from passl.cli.common import (
    add_imports,
    add_weights_key,
    import_named,
    make_parser,
    run_command,
    weight_file,
)
from passl.datasets import build_dataset
from passl.datasets.image_size import image_size
from passl.datasets.sources.parts import find_parts
from passl.distributed.processes import launched_size
from passl.engine import train
from passl.engine.finetuning import batches, compares_words, find_release, finetuning_config
from passl.evaluation.zero_shot import PLAIN, names_as_words, zero_shot_classifier
from passl.inspection.fitting import images_that_fit, memory_of
from passl.modeling.architectures import build_architecture
from passl.utils.commands import command
from passl.utils.config import Config, get_config, quoted, with_classes
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.run_folder import LATEST, RUN_CONFIG, checkpoint_folder
from passl.utils.whole_files import filling
from passl.utils.zoo import Release
from passl.weights import load_weights
from passl.weights.writing import write_network


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Fine-tune released weights on your own images, by the recipe of the network's family. "
        "DIR has a folder of images for each class, or train/ and perhaps val/ and test/ with "
        "such folders; without val/, a tenth of each class is held out. It ends with a report; the "
        "same command goes on after an interruption.",
        f"  {command('finetune')} vit_s16_224.augreg_in21k photos/\n"
        f"  {command('finetune')} mlp_mixer_b16_224 photos/ --weights Mixer-B_16.npz --epochs 5",
    )
    parser.add_argument("name", metavar="NAME", help="a release or a network; passl models lists")
    parser.add_argument("folder", metavar="DIR", help="the images, in a folder for each class")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="default: output/<name>-<name of the folder>"
    )
    parser.add_argument(
        "--weights", metavar="PATH", help="the released file, where it is at hand already"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the recipe's (20)")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), help="default: auto")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE",
        help="change a key of the recipe's config; may be repeated",
    )  # fmt: skip
    add_weights_key(parser)
    add_imports(parser)
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if launched_size() > 1:
        raise PasslError(
            "finetune makes a run of one process; for several, train from the config that it has "
            f"written: {command('train')} -c DIR/{RUN_CONFIG} --pretrained …"
        )
    if arguments.epochs is not None and arguments.epochs < 1:
        raise PasslError(f"--epochs is at least 1, not {arguments.epochs}")
    import_named(arguments)
    release = find_release(arguments.name)
    where = os.path.basename(os.path.abspath(arguments.folder))
    folder = arguments.output_dir or f"output/{release.name}-{where}"
    overrides = list(arguments.override)
    for key in ("seed", "device"):
        value = getattr(arguments, key)
        if value is not None:
            overrides.append(f"{key}={value}")
    if (checkpoint_folder(Path(folder)) / LATEST).exists():
        if arguments.epochs is not None:
            overrides.append(f"epochs={arguments.epochs}")
        cfg, pretrained = _of_run(folder, release, arguments.folder, overrides), None
    else:
        cfg = finetuning_config(
            release, arguments.folder, folder, arguments.epochs, overrides, _batches
        )
        pretrained = _start(arguments, release, cfg)
    train(cfg, resume="auto", pretrained=pretrained, weights_key=arguments.weights_key)
    config, report = (str(Path(folder) / name) for name in (RUN_CONFIG, "report"))
    split = ["--split", "test"] if cfg.dataloader.test is not None else []
    code = evaluation.main(["-c", config, "--report", report, *split])
    if code:
        sys.exit(code)


def _of_run(folder: str, release: Release, images: str, overrides: List[str]) -> Config:
    """Returns the config of the run in a folder, which is to go on.

    Raises:
        PasslError: it is another one's.
    """
    output = f"output_dir={quoted(folder)}"
    cfg = get_config(str(Path(folder) / RUN_CONFIG), [output, *overrides])
    there = cfg.dataloader.train.dataset.get("dataroot", "")
    if cfg.preprocessing != release.name or Path(there) != Path(find_parts(images)["train"]):
        raise PasslError(
            f"{folder}: holds a run from {cfg.preprocessing} on the images of {there}; name "
            "another --output-dir"
        )
    return cfg


def _batches(cfg: Config) -> List[str]:
    """Returns overrides that suit the machine and the number of images."""
    device = select_device(cfg.device, cfg.tf32)
    samples = len(build_dataset(cfg.dataloader.train.dataset))
    shape = [3, *image_size(cfg.dataloader.val)]
    most = cfg.dataloader.train.sampler.batch_size
    fitting = images_that_fit(with_classes(cfg, 2), shape, most, memory_of(device))
    if fitting < most:
        logger.info("%d images at a time fit into memory; gradients are accumulated", fitting)
    return batches(cfg, fitting, samples)


def _start(arguments: argparse.Namespace, release: Release, cfg: Config) -> str:
    """Returns the weights to begin with; of CLIP, with a head that tells the folders' names apart.

    That is where WiSE-FT begins (Wortsman et al., arXiv 2109.01903).
    """
    weights = weight_file(arguments.weights or release.name)
    theirs = get_config(release.config, release.overrides)
    if not compares_words(theirs):
        return weights
    clip = build_architecture(theirs.model)
    report = load_weights(clip, weights, arguments.weights_key)
    names = build_dataset(cfg.dataloader.train.dataset, None).class_names
    network = clip.as_network(zero_shot_classifier(clip, names_as_words(names), [PLAIN]))
    start = Path(cfg.output_dir) / "start.safetensors"
    with filling(start.parent):
        write_network(start, network, report, names)
    return str(start)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    again = "run the same command again"
    return run_command(_main, _parser(), argv, again=again)


if __name__ == "__main__":
    sys.exit(main())
