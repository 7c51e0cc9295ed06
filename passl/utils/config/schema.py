"""What a config may hold: its fixed sections with their defaults, and the check of a whole config.

OmegaConf checks the types. The arguments of components are checked when they are built, see
``passl.utils.registry``.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import omegaconf
from omegaconf import MISSING, OmegaConf

from passl.utils.config.values import join_path, place_of
from passl.utils.errors import PasslError, listing, suggest


@dataclasses.dataclass
class SamplerSection:
    """``dataloader.*.sampler``."""

    batch_size: int = MISSING  # images a process takes at a time
    repeats: int = 1  # times an image stands in a training batch, augmented anew each time


@dataclasses.dataclass
class LoaderSection:
    """``dataloader.*.loader``."""

    num_workers: int = 2  # processes that decode and transform; 0 does it in the main process
    use_shared_memory: bool = True  # hand batches over through it, rather than through pipes
    max_unreadable: int = 10  # unreadable images that a process skips in training before all stop
    max_pixels: Optional[int] = 178956970  # largest image that is decoded; null for any size
    timeout: int = 600  # seconds without a batch before the run stops; a tenth brings a warning


@dataclasses.dataclass
class SplitSection:
    """``dataloader.train``, ``.val`` and ``.test``."""

    dataset: Dict[str, Any] = MISSING  # name and arguments of a dataset, its transforms included
    batch_transforms: List[Any] = dataclasses.field(default_factory=list)  # on the device
    sampler: SamplerSection = dataclasses.field(default_factory=SamplerSection)
    loader: LoaderSection = dataclasses.field(default_factory=LoaderSection)


@dataclasses.dataclass
class DataloaderSection:
    """``dataloader``."""

    train: Optional[SplitSection] = None  # what is trained on
    val: Optional[SplitSection] = None  # chooses the best checkpoint
    test: Optional[SplitSection] = None  # reported once, at the end of training
    bank: Optional[SplitSection] = None  # what Neighbours compares with; default: `train`


@dataclasses.dataclass
class LogSection:
    """``log_config``."""

    interval: int = 50  # steps between records of the loss
    histograms: Optional[int] = None  # epochs between histograms of the weights on the board
    boards: List[Any] = dataclasses.field(default_factory=lambda: ["VisualDL"])  # see below


@dataclasses.dataclass
class CheckpointSection:
    """``checkpoint``."""

    interval_steps: Optional[int] = None  # steps between checkpoints
    interval_epochs: Optional[int] = 1  # epochs between checkpoints
    keep: int = 0  # numbered checkpoints kept besides `latest` and `best`
    background: bool = True  # write while training goes on


@dataclasses.dataclass
class EvaluateSection:
    """``evaluate``."""

    interval_epochs: int = 1  # epochs between evaluations of `val`; the last one always is
    evaluator: Optional[Dict[str, Any]] = None  # name and arguments; default: the model's own


@dataclasses.dataclass
class AverageSection:
    """``ema``: a moving average of the weights, which is evaluated in their place."""

    decay: float = 0.9999  # what is kept of the average at each step
    warmup: bool = True  # a shorter average at the beginning


@dataclasses.dataclass
class PrecisionSection:
    """``amp``: mixed precision; needs a GPU."""

    level: str = "O1"  # O1: float32 weights; O2: 16-bit weights beside float32 ones
    dtype: Optional[str] = None  # bfloat16 or float16; default: bfloat16 where the GPU has it
    loss_scale: float = 65536.0  # the first, for float16


@dataclasses.dataclass
class ParallelSection:
    """``parallel``: how several processes train together."""

    fusion_mb: float = 25.0  # gradients are sent in pieces of about so many MiB
    sharding: int = 0  # 2: shares out the optimizer state; needs GPUs (1 is the same)
    sync_batch_norm: bool = False  # batch norms normalise over the batches of all processes
    # Of one process. With gloo 28, because that gives up after 30 by itself.
    lost_after: Optional[float] = None  # seconds of silence before all end; 28 (gloo), 900 (NCCL)


@dataclasses.dataclass
class Schema:
    """The top level of a config."""

    epochs: int = 300  # of training, over the whole training set
    output_dir: Optional[str] = None  # default: output/<name of the config file>
    seed: int = 0  # of everything that is drawn
    device: str = "auto"  # auto, cpu or gpu
    imports: List[str] = dataclasses.field(default_factory=list)  # modules with parts of one's own
    tf32: bool = True  # on GPUs from A100 on: matrix products with 10 bits of mantissa; false: 23
    deterministic: bool = False  # on a GPU: the same numbers in every run, at some cost in speed
    amp: Optional[PrecisionSection] = None  # {} takes its defaults
    recompute: bool = False  # keep no activations inside blocks: less memory, about a third slower
    to_static: bool = False  # run the network as a static program, one operation after the other
    global_batch_size: Optional[int] = None  # images a step; default: batch_size × processes
    model: Dict[str, Any] = MISSING  # name, architecture (the backbone), head, freeze
    preprocessing: Optional[str] = None  # the release of the model zoo whose image view is taken
    dataloader: DataloaderSection = dataclasses.field(default_factory=DataloaderSection)
    max_bad_steps: int = 20  # in a row, skipped for a loss or gradient that is not finite
    lr_scheduler: Optional[Dict[str, Any]] = None  # name and arguments; training needs it
    optimizer: Optional[Dict[str, Any]] = None  # name and arguments; training needs it
    ema: Optional[AverageSection] = None  # {} takes its defaults
    log_config: LogSection = dataclasses.field(default_factory=LogSection)
    checkpoint: CheckpointSection = dataclasses.field(default_factory=CheckpointSection)
    evaluate: EvaluateSection = dataclasses.field(default_factory=EvaluateSection)
    parallel: ParallelSection = dataclasses.field(default_factory=ParallelSection)
    hooks: List[Any] = dataclasses.field(default_factory=list)  # besides the built-in ones


# The least value of each number that has one.
_LEAST = {
    "epochs": 1,
    "seed": 0,
    "global_batch_size": 1,
    "max_bad_steps": 1,
    "log_config.interval": 1,
    "log_config.histograms": 1,
    "evaluate.interval_epochs": 1,
    "checkpoint.interval_steps": 1,
    "checkpoint.interval_epochs": 1,
    "checkpoint.keep": 0,
    "parallel.fusion_mb": 1,
    "parallel.sharding": 0,
    "parallel.lost_after": 1,
    **{f"dataloader.{split}.sampler.batch_size": 1 for split in ("train", "val", "test", "bank")},
    **{f"dataloader.{split}.loader.num_workers": 0 for split in ("train", "val", "test", "bank")},
    **{
        f"dataloader.{split}.loader.max_unreadable": 0 for split in ("train", "val", "test", "bank")
    },
    **{f"dataloader.{split}.loader.max_pixels": 1 for split in ("train", "val", "test", "bank")},
    **{f"dataloader.{split}.sampler.repeats": 1 for split in ("train", "val", "test", "bank")},
    **{f"dataloader.{split}.loader.timeout": 1 for split in ("train", "val", "test", "bank")},
}


def with_defaults(values: Dict[str, Any]) -> Dict[str, Any]:
    """Returns a config that an earlier version has written, with the keys that are new since.

    They get the values that make no difference: their defaults.
    """
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Schema), values)
    except omegaconf.errors.OmegaConfBaseException:  # of keys that are gone; the caller tells which
        return values
    return OmegaConf.to_container(cfg, resolve=False, structured_config_mode="dict")


def kind_wanted(key: str) -> str:
    """Returns what a key of the fixed sections takes, as far as that is known, in words."""
    section: Any = Schema
    for part in key.split("."):
        fixed = dataclasses.is_dataclass(section)
        hint = typing.get_type_hints(section).get(part) if fixed else None
        if hint is None:
            return "cannot be read"
        optional = type(None) in typing.get_args(hint)
        section = typing.get_args(hint)[0] if optional else hint
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    kind = words.get(section, "a list" if typing.get_origin(section) is list else "a mapping")
    return f"takes {kind}{', or null' if optional else ''}"


def check(values: Dict[str, Any], file: Path, origins: Mapping[str, str]) -> Dict[str, Any]:
    """Fills in the defaults of the fixed sections; refuses unknown keys and wrong types."""
    _refuse_unknown(values, Schema, "", origins)
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Schema), values)
        checked = OmegaConf.to_container(
            cfg, resolve=False, throw_on_missing=True, structured_config_mode="dict"
        )
    except omegaconf.errors.MissingMandatoryValue as error:
        raise PasslError(f"{file}: the key '{error.full_key}' is missing") from None
    except omegaconf.errors.OmegaConfBaseException as error:
        key = error.full_key or ""
        raise PasslError(
            f"'{key}' {kind_wanted(key)}: {str(error).splitlines()[0]}",
            place_of(key, origins) or f"{file}: ",
        ) from None
    except (TypeError, ValueError) as error:  # OmegaConf lets some mismatches through to Python
        raise PasslError(f"{file}: a section has the wrong type ({error})") from None
    if checked["device"] not in ("auto", "cpu", "gpu"):
        raise PasslError(
            f"'device' is auto, cpu or gpu, not {checked['device']!r}", place_of("device", origins)
        )
    for key, least in _LEAST.items():
        value: Any = checked
        for part in key.split("."):
            value = value[part] if value is not None else None
        if value is not None and value < least:
            raise PasslError(
                f"'{key}' must be at least {least}, not {value}", place_of(key, origins)
            )
    return checked


def _refuse_unknown(values: Any, section: type, path: str, origins: Mapping[str, str]) -> None:
    known = typing.get_type_hints(section)
    if values is None:
        return
    if not isinstance(values, dict):
        raise PasslError(
            f"'{path}' holds the keys {listing(known)}, not the value {values!r}",
            place_of(path, origins),
        )
    for key, value in values.items():
        if key not in known:
            where = f"of '{path}'" if path else "at the top level"
            raise PasslError(
                f"unknown key '{key}' {where}{suggest(key, known)}; known: {listing(known)}",
                place_of(join_path(path, key), origins),
            )
        hints = (known[key], *typing.get_args(known[key]))
        for kind, word in ((dict, "a mapping"), (list, "a list")):
            expected = any(typing.get_origin(hint) is kind for hint in hints)
            if expected and value is not None and not isinstance(value, kind):
                raise PasslError(
                    f"'{join_path(path, key)}' is {word}, not {value!r}",
                    place_of(join_path(path, key), origins),
                )
        for hint in hints:
            if dataclasses.is_dataclass(hint):
                _refuse_unknown(value, hint, join_path(path, key), origins)
