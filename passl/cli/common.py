"""What all command lines share: common arguments, and errors as one line with exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

from paddle import nn

from passl.datasets import with_synthetic_data
from passl.datasets.sources.class_names import read_class_names, readable_names
from passl.distributed.interrupts import Interrupted
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.config import (
    Config,
    get_config,
    open_sections,
    origin_of,
    plain,
    quoted,
    with_classes,
)
from passl.utils.device_errors import explain_device_error
from passl.utils.errors import PasslError
from passl.utils.home import expanded
from passl.utils.logging import log_to_console, logger
from passl.utils.plugins import import_parts, import_plugins, imports_given
from passl.utils.run_folder import BEST, LATEST, RUN_CONFIG, checkpoint_folder
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error
from passl.utils.text import accept_all_text, visible
from passl.utils.whole_files import replacing
from passl.weights import LoadReport, WeightFile, count_classes, load_weights

# What stands for a file and for a folder in the usage of the commands.
FILES, FOLDERS = ("FILE", "PATH", "auto|PATH", "CONFIG", "SRC", "DST", "IMAGE"), ("DIR",)


def make_parser(description: str, example: str) -> argparse.ArgumentParser:
    """Returns a parser with what every command has.

    Args:
        description: one sentence.
        example: commands to show at the end of ``--help``; see ``passl.utils.commands``.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of commands that work as a config says."""
    parser.add_argument(
        "-c", "--config", required=True, metavar="CONFIG",
        help="YAML file, or the name of a shipped config (mlp-mixer_b16_224)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="KEY=VALUE",
        help="change a key of the config, e.g. -o dataloader.train.sampler.batch_size=64; "
        "may be repeated",
    )  # fmt: skip
    add_imports(parser)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), help="default: the config's, or auto"
    )
    parser.add_argument("--output-dir", metavar="DIR", help="default: output/<config name>")


def add_imports(parser: argparse.ArgumentParser) -> None:
    """Adds ``--import``, for commands that may meet parts of the user's own."""
    parser.add_argument(
        "--import", action="append", default=[], metavar="PATH", dest="imports",
        help="a module with parts of your own, by its path or its name, besides those that the "
        "config imports; may be repeated",
    )  # fmt: skip


def import_named(arguments: argparse.Namespace) -> None:
    """Imports the modules of ``--import``, for commands without a config."""
    import_plugins()
    import_parts(imports_given(arguments.imports))


def add_synthetic(parser: argparse.ArgumentParser) -> None:
    """Adds ``--synthetic``, for commands that can do without the data of a config."""
    parser.add_argument(
        "--synthetic", nargs="?", type=int, const=0, metavar="IMAGES",
        help="made-up images in the place of the config's data sets, as many as those have as far "
        "as that is known, or so many to train on, and no more in any other set",
    )  # fmt: skip


def config_of(arguments: argparse.Namespace) -> Config:
    """Returns the config that the arguments name, with what they change in it.

    Raises:
        PasslError: something is wrong with it.
    """
    cfg = get_config(arguments.config, overrides_of(arguments), arguments.imports)
    if open_sections(cfg) and hasattr(arguments, "weights"):
        cfg = with_classes(cfg, _classes_of_weights(arguments, cfg))
    images = getattr(arguments, "synthetic", None)
    if images is None:
        return cfg
    if images < 0:
        raise PasslError(f"--synthetic takes a number of images, not {images}")
    return with_synthetic_data(cfg, images)


def _classes_of_weights(arguments: argparse.Namespace, cfg: Config) -> int:
    """Returns how many classes the weights of a command tell apart.

    Raises:
        PasslError: none.
    """
    with WeightFile(_named_weights(arguments, cfg), arguments.weights_key) as file:
        backbone = cfg.model["architecture"]["name"]
        count = count_classes(file, BACKBONES.attribute(backbone, "released_names", {}))
        if not count:
            section = open_sections(cfg)[0]
            raise PasslError(
                f"{file.path}: has no head, so that the number of classes is not known; set "
                f"-o model.{section}.num_classes=…",
                place=origin_of(cfg.model[section], "num_classes"),
            )
    return count


def compare_with_zoo(report: LoadReport, section: Config) -> None:
    """Warns where a released file is used on other images than it asks for."""
    weights = report.path
    known = zoo.files_called(weights)
    if report.source is not None:  # then its hash was compared already
        known = [(r, file) for r, file in known if r.name == report.source.release]
    else:
        for release, file in known:
            if not zoo.has_known_hash(weights, file):
                logger.warning(
                    "%s: has the name of a file of %s, but not its content (SHA-256 %s…); is it "
                    "damaged, or another one?", weights, release.name, file.sha256,
                )  # fmt: skip
    wanted = [release.preprocessing for release, _ in known]
    given = (plain(section.dataset.get("transforms")), plain(section.batch_transforms))
    if wanted and given not in [(p.transforms(), p.batch_transforms()) for p in wanted]:
        logger.warning(
            "%s: was trained for other images than the config prepares: %s; take them with "
            "-o preprocessing=%s", weights, wanted[0], known[0][0].name,
        )  # fmt: skip


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds ``--weights`` and what belongs to it, for commands that use a trained network."""
    parser.add_argument(
        "--weights", metavar="PATH",
        help="a checkpoint, or a released file: Google's .npz, .safetensors, torch's .pth, .pt or "
        ".bin, Paddle's .pdparams; or the name of a release (passl models lists them), or an "
        "address, https://…, which is fetched once; or the folder of a run, of which the best "
        "checkpoint is taken, or else the latest; default: the output folder",
    )  # fmt: skip
    add_weights_key(parser)
    add_allow_partial(parser)


def load_named_weights(network: nn.Layer, arguments: argparse.Namespace, cfg: Config) -> LoadReport:
    """Loads the weights that the arguments name, or those of the config's own run.

    Of a run, or the folder of one, that is the best checkpoint, or the latest where no evaluation
    has chosen one.
    """
    weights = _named_weights(arguments, cfg)
    return load_weights(network, weights, arguments.weights_key, arguments.allow_partial)


def _named_weights(arguments: argparse.Namespace, cfg: Config) -> str:
    return str(_of_own_run(cfg)) if arguments.weights is None else weight_file(arguments.weights)


def weight_file(given: str) -> str:
    """Returns the weight file that a path means: of a run's folder the best, or latest, checkpoint.

    The name of a release and an address stay as they are: who opens the file fetches it.

    Raises:
        PasslError: a folder without checkpoints.
    """
    if not os.path.isdir(given):
        return given
    path = Path(given)
    found = _kept(checkpoint_folder(path)) or _kept(path)
    if found is None:
        raise PasslError(f"{path}: is a folder without {BEST} or {LATEST}; name a weight file")
    return str(found)


def _of_own_run(cfg: Config) -> Path:
    folder = checkpoint_folder(Path(cfg.output_dir))
    found = _kept(folder)
    if found is None:
        raise PasslError(
            f"{folder / BEST}: there is no such file, nor {LATEST} beside it; "
            "train first, or name weights with --weights, or the folder of a run with --output-dir"
        )
    return found


def _kept(folder: Path) -> Optional[Path]:
    """Returns the best checkpoint in a folder, or else the latest, or None."""
    best, latest = folder / BEST, folder / LATEST
    if best.exists() or not latest.exists():
        return best if best.exists() else None
    logger.info("%s: the latest is taken, for no evaluation has chosen a best one", latest)
    return latest


def add_class_names(parser: argparse.ArgumentParser) -> None:
    """Adds ``--class-names``, for commands that show what classes are called."""
    parser.add_argument(
        "--class-names", metavar="FILE",
        help="what the classes are called, one name a line in the order of the labels; default: as "
        "the weights record it",
    )  # fmt: skip


def names_of_classes(
    num_classes: int,
    report: LoadReport,
    arguments: argparse.Namespace,
    section: Config,
    of_data: Optional[Sequence[str]] = None,
) -> List[str]:
    """Returns a name for every class of a network.

    ImageNet's are taken only where the data or the weights are known to be of ImageNet.

    Args:
        num_classes: of the network.
        report: of its weights.
        arguments: ``--class-names`` counts most.
        section: of the config's dataloader, whose images the network is shown.
        of_data: the names of the data set, if it was read and has any.

    Raises:
        PasslError: the file cannot be read, or has more or fewer names.
    """
    if arguments.class_names is not None:
        given = read_class_names(Path(arguments.class_names))
        if len(given) != num_classes:
            raise PasslError(
                f"{arguments.class_names}: holds {len(given)} names, but the network has "
                f"{num_classes} classes"
            )
        return readable_names(num_classes, given)
    imagenet = report.of_imagenet or (of_data is not None and section.dataset.name == "ImageNet")
    names = readable_names(num_classes, of_data or report.class_names, imagenet)
    if names == readable_names(num_classes, None):
        logger.info(
            "%s: does not say what its classes are called; --class-names FILE does", report.path
        )
    return names


def add_weights_key(parser: argparse.ArgumentParser) -> None:
    """Adds ``--weights-key``, for commands that read weight files."""
    parser.add_argument(
        "--weights-key", metavar="KEY",
        help="which of the file's mappings to take, where it has several (state_dict_ema)",
    )  # fmt: skip


def add_allow_partial(parser: argparse.ArgumentParser) -> None:
    """Adds ``--allow-partial``, for commands that load weights into a network."""
    parser.add_argument(
        "--allow-partial", action="store_true",
        help="load what fits of the weights, and list what does not, instead of stopping",
    )  # fmt: skip


def write_json(path: str, result: Any) -> None:
    """Writes what ``--json FILE`` asks for; ``-`` is the standard output.

    Raises:
        PasslError: the file cannot be written.
    """
    text = to_json(result, indent=2) + "\n"
    if path in ("-", "/dev/stdout"):
        sys.stdout.write(text)
        return
    try:
        with replacing(Path(path)) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise explain_os_error(error, path) from None


def overrides_of(arguments: argparse.Namespace) -> List[str]:
    """Returns all config overrides, those that have an option of their own included."""
    overrides = list(arguments.override)
    for key in ("device", "seed", "output_dir"):
        value = getattr(arguments, key, None)
        if value is not None:
            # In quotes: a folder's name may hold what YAML takes for a comment or a number.
            overrides.append(f"{key}={quoted(value) if isinstance(value, str) else value}")
    # A run's folder may have been moved since its config was written.
    beside = Path(arguments.config).parent
    if Path(arguments.config).name == RUN_CONFIG and checkpoint_folder(beside).is_dir():
        overrides.insert(0, f"output_dir={quoted(str(beside))}")
    return overrides


def run_command(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Optional[List[str]],
    answers: bool = False,
    memory: str = "end other programs, or take a machine with more memory",
    again: str = "run the command again",
) -> int:
    """Runs a command and returns its exit code.

    Args:
        main: the command.
        parser: of its arguments.
        argv: them; None for those of the process.
        answers: whether its output is an answer that one may want to pass on; messages then go to
            the error stream.
        memory: what to say of a full memory.
        again: how to go on once the machine is in order again.

    Returns:
        0: done; 2: the user can put it right, one line on the error stream says how; 75: another
        process of the run was lost; 130 and 143: stopped by Ctrl-C or SIGTERM.
    """
    accept_all_text()
    arguments = parser.parse_args(argv)
    log_to_console(to_errors=answers)
    try:
        _expand_home(parser, arguments)
        _check_paths(arguments)
        main(arguments)
        sys.stdout.flush()
    except PasslError as error:
        if arguments.debug:
            raise
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _discard_output()  # `… | head` closed the pipe
        return 1
    except (RuntimeError, MemoryError, OSError) as error:
        known = explain_device_error(error, memory, again)
        if known is None and isinstance(error, OSError) and error.errno is not None:
            known = explain_os_error(error, doing="read or written")
        if known is None or arguments.debug:
            raise
        print(f"error: {visible(str(known))}", file=sys.stderr)
        if not isinstance(error, OSError) or error.filename is None:
            _discard_output()
        return known.exit_code
    except Interrupted as interrupted:
        # Until the interpreter has ended, which takes its time.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _expand_home(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Puts the home folder in the place of ``~`` in all paths among the arguments.

    Raises:
        PasslError: it is not known.
    """
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if action.metavar not in (*FILES, *FOLDERS) or value is None:
            continue
        paths = [value] if isinstance(value, str) else value
        try:
            found = [expanded(path) for path in paths]
        except PasslError as error:
            error.place = f"{action.option_strings[-1]}: " if action.option_strings else ""
            raise
        setattr(arguments, action.dest, found[0] if isinstance(value, str) else found)


def _check_paths(arguments: argparse.Namespace) -> None:
    """Refuses, before any work, what no path can be and places that cannot be written to.

    Raises:
        PasslError: an empty text, a file where a folder is needed, a folder that is not there.
    """
    for name, value in vars(arguments).items():
        option = f"--{name.replace('_', '-')}"
        if value == "":
            raise PasslError(f"{option} is empty; is it a shell variable that is not set?")
        if not isinstance(value, str):
            continue
        path = Path(value)
        if name in ("output", "report", "output_dir") and path.exists() and not path.is_dir():
            raise PasslError(f"{option} {value}: is a file, and a folder is needed; name another")
        if name == "json" and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise PasslError(f"{option} {value}: is no place for a file; name another")


def _discard_output() -> None:
    """Lets nothing be written to the output any more, where Python would fail again at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
