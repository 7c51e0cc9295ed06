"""``passl eval``: how good a checkpoint is, by its evaluator."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from passl.cli.common import (
    add_class_names,
    add_config_arguments,
    add_synthetic,
    add_weights,
    compare_with_zoo,
    config_of,
    load_named_weights,
    make_parser,
    names_of_classes,
    run_command,
    write_json,
)
from passl.datasets import Loader, build_dataset
from passl.datasets.view import evaluated_section
from passl.distributed.peers import Peers
from passl.distributed.processes import Processes, join_processes
from passl.engine.checks import check_classes
from passl.evaluation import (
    Evaluator,
    build_evaluator,
    crop_ratio,
    evaluation_loader,
    sections_also_read,
)
from passl.modeling.architectures import Architecture, build_architecture
from passl.utils import zoo
from passl.utils.commands import command, launched_command
from passl.utils.config import Config
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.logging import logger


class _List(argparse.Action):
    """``--list``: shows the model zoo and exits, whatever else is asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(zoo.as_text())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Evaluate weights over exactly the images of a set: Top-1, Top-5 and loss, or what "
        "evaluate.evaluator of the config measures.",
        f"  {command('eval')} -c mlp-mixer_b16_224 --weights mlp_mixer_b16_224.goog_in1k\n"
        f"  {command('eval')} -c mlp-mixer_groceries --split test --report output/report\n"
        f"  {launched_command('eval')} -c … --weights …",
    )
    add_config_arguments(parser)
    add_weights(parser)
    add_synthetic(parser)
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val",
        help="the section of the config's dataloader to evaluate (default: val)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE")
    parser.add_argument(
        "--report", metavar="DIR",
        help="also write report.html there, one page with the surest mistakes, the confusion "
        "matrix and the accuracy of every class",
    )  # fmt: skip
    add_class_names(parser)
    parser.add_argument(
        "--list", action=_List, nargs=0,
        help="show the released weights: files, preprocessing, reported accuracy; and exit",
    )  # fmt: skip
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if arguments.class_names is not None and arguments.report is None:
        raise PasslError("--class-names is for the report; add --report DIR")
    cfg = config_of(arguments)
    section = evaluated_section(cfg, arguments.split)
    select_device(cfg.device, cfg.tf32)
    processes = join_processes()
    with Peers(processes, cfg.parallel.lost_after):
        _evaluate(arguments, cfg, section, processes)


def _evaluate(
    arguments: argparse.Namespace, cfg: Config, section: Config, processes: Processes
) -> None:
    with processes.one_by_host():
        dataset = build_dataset(section.dataset, section.loader.max_pixels)
    architecture = build_architecture(cfg.model)
    report = load_named_weights(architecture, arguments, cfg)
    compare_with_zoo(report, section)
    check_classes(architecture, dataset, report.metadata.get("class_names"), section)
    evaluator = build_evaluator(cfg.evaluate.evaluator, architecture)
    loader = evaluation_loader(dataset, section, processes)
    also = _loaders_also_read(cfg, evaluator, architecture, report.metadata, processes)
    look: Dict[str, Any] = {}
    if arguments.report is not None:
        # Imported late: what draws takes half a second.
        from passl.evaluation.report import Answers, write_report

        if processes.size > 1:
            raise PasslError("a report is made by one process; start it without the launcher")
        if not evaluator.classifies:
            raise PasslError(
                f"--report shows how images were classified, which {type(evaluator).__name__} does "
                "not do; leave it out"
            )
        answers = Answers()
        look = {"look": answers.add}
    result = evaluator.evaluate(
        architecture, loader, also, arguments.split, processes=processes, **look
    )
    problem = evaluator.problem(result)
    if problem is not None:
        raise PasslError(f"{report.path}: {problem}")
    if arguments.report is not None:
        classes = architecture.num_classes
        names = list(evaluator.names) or names_of_classes(
            classes, report, arguments, section, dataset.class_names
        )
        facts = {"config": arguments.config, "weights": report.whence, "split": arguments.split}
        path = write_report(
            Path(arguments.report), answers, dataset, names, evaluator, result, facts
        )
        logger.info("%s: open it in a browser", path)
    if not processes.is_first:
        return
    ratio = crop_ratio(dataset)
    print(
        f"{section.dataset.get('dataroot', section.dataset.name)} ({arguments.split}): "
        f"{evaluator.describe(result)}  "
        f"over {result['samples']} images at crop ratio {'none' if ratio is None else ratio}, "
        f"{result['seconds']:.1f} s, {result['images_per_second']:.1f} images/s"
    )
    if arguments.json:
        write_json(arguments.json, {**result, "crop_ratio": ratio})


def _loaders_also_read(
    cfg: Config,
    evaluator: Evaluator,
    architecture: Architecture,
    metadata: Mapping[str, Any],
    processes: Processes,
) -> Dict[str, Loader]:
    loaders = {}
    for name, section in sections_also_read(cfg, evaluator).items():
        with processes.one_by_host():
            dataset = build_dataset(section.dataset, section.loader.max_pixels)
        check_classes(architecture, dataset, metadata.get("class_names"), section)
        loaders[name] = evaluation_loader(dataset, section, processes)
    return loaders


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    memory = "lower dataloader.SPLIT.sampler.batch_size, of the split that is evaluated"
    return run_command(_main, _parser(), argv, memory=memory)


if __name__ == "__main__":
    sys.exit(main())
