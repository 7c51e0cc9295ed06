"""Configs: YAML files with inheritance and overrides, checked, with attribute access.

A config file is plain data. ``_base_`` names one file or a list of files, relative to the
file itself, that it builds on; mappings are merged, lists and scalars replaced, and a mapping
that gives another ``name`` replaces its base's altogether, because another component takes
other arguments. Nothing in a file is ever evaluated as code.

PyYAML reads (its parser knows line numbers, which messages need), OmegaConf merges, applies
dotted overrides and checks the types of the fixed sections.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import typing
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import omegaconf
import yaml
from omegaconf import MISSING, OmegaConf

from passl.utils.errors import PasslError, listing, suggest
from passl.utils.home import expanded
from passl.utils.migration import renamed_keys
from passl.utils.shipped import config_root
from passl.utils.system_errors import explain_os_error
from passl.utils.zoo import get_release

# ---------------------------------------------------------------- what a config may hold


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
    max_unreadable: int = 10  # different unreadable images that training skips before it stops
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
    histograms: Optional[int] = None  # epochs between histograms of the weights in VisualDL


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
    sharding: int = 0  # 1: shares out the optimizer state, 2: and gradients; needs GPUs
    sync_batch_norm: bool = False  # batch norms normalise over the batches of all processes
    # gloo gives up after 30 seconds by itself, and cannot say on whom.
    lost_after: float = 28.0  # seconds without a sign of life of a process before all end


@dataclasses.dataclass
class Schema:
    """The top level of a config."""

    epochs: int = 300  # of training, over the whole training set
    output_dir: Optional[str] = None  # default: output/<name of the config file>
    seed: int = 0  # of everything that is drawn
    device: str = "auto"  # auto, cpu or gpu
    tf32: bool = True  # on GPUs from A100 on: matrix products with 10 bits of mantissa; false: 23
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


# ---------------------------------------------------------------- the config object


class Config(dict):
    """A mapping whose keys are also attributes, and which knows where each was written.

    Example:
        >>> cfg = get_config("configs/mlp_mixer/mlp-mixer_b16_224.yaml")
        >>> cfg.model.head.num_classes
        1000
    """

    def __init__(
        self, values: Mapping[str, Any], path: str = "", origins: Optional[Dict[str, str]] = None
    ):
        self.__dict__["_path"] = path
        self.__dict__["_origins"] = {} if origins is None else origins
        super().__init__(
            (key, _wrap(value, _join(path, key), self._origins)) for key, value in values.items()
        )

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(
                f"the config has no '{_join(self.__dict__.get('_path', ''), key)}'"
                f"{suggest(key, self)}"
            ) from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError("a config is not changed after loading; use get_config(overrides=…)")

    @property
    def origins(self) -> Dict[str, str]:
        """Where each key was written, by its path from the top."""
        return dict(self._origins)

    def to_yaml(self) -> str:
        """Returns the config as YAML text that get_config reads back unchanged."""
        return yaml.dump(plain(self), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Returns a config (or part of one) as plain dicts, lists and scalars."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def quoted(text: str) -> str:
    """Returns a text as an override has it that is not to be taken for anything else."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    itself = letter.isascii() and letter.isprintable() and letter not in '"\\'
    return letter if itself else f"\\U{ord(letter):08x}"


def _wrap(value: Any, path: str, origins: Dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return Config(value, path, origins)
    if isinstance(value, list):
        return [_wrap(item, _join(path, i), origins) for i, item in enumerate(value)]
    return value


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def origin_of(cfg: Any, key: Optional[str] = None) -> str:
    """Returns ``"file:line: "`` for a part of a config, or an empty string where unknown."""
    if not isinstance(cfg, Config):
        return ""
    path = _join(cfg._path, key) if key is not None else cfg._path
    return _origin(path, cfg._origins)


def _origin(path: str, origins: Mapping[str, str]) -> str:
    while path:
        if path in origins:
            return origins[path] + ": "
        path = path.rpartition(".")[0]
    return ""


# ---------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that ``1e-3`` is a number as in YAML 1.2.

    It also takes names that are not UTF-8, as the command line gives them: PyYAML's own check has
    no place for the half pairs of surrogates that stand for their bytes.
    """

    NON_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ufffd\U00010000-\U0010ffff]")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # which PyYAML itself refuses
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back unchanged: it puts the text ``'1e-3'`` in quotes."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )


# A part of a set: YAML takes it for a list, and for a broken one where it begins with a colon.
_SUBSET = re.compile(r"\[(?:[\d.]+%)?:(?:[\d.]+%)?\]")
_BARE_SUBSET = re.compile(rf"[^#]*(?:^|[:,{{\[-])\s*({_SUBSET.pattern})")
_IN_QUOTES = re.compile(r"'[^']*'|\"[^\"]*\"")


def _parse_yaml(text: str, name: str) -> Any:
    for number, line in enumerate(text.splitlines(), start=1):
        bare = _BARE_SUBSET.match(_IN_QUOTES.sub("''", line))
        if bare:
            raise PasslError(
                f'{bare[1]} is a list in YAML; put it in quotes: "{bare[1]}"', f"{name}:{number}: "
            )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}: " if mark else f"{name}: "
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise PasslError(f"not valid YAML: {problem}", place) from None


def _refuse_odd_values(value: Any, path: str, origins: Mapping[str, str]) -> None:
    """Raises PasslError for what YAML can say and a config may not."""
    place = _origin(path, origins)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or "." in key:
                where = f" in '{path}'" if path else ""
                raise PasslError(f"a key{where} is text without dots, not {key!r}", place)
            _refuse_odd_values(item, _join(path, key), origins)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_odd_values(item, _join(path, i), origins)
    elif isinstance(value, str):
        if "${" in value:
            raise PasslError(
                f"'{path}': {value!r} holds '${{', and nothing is substituted in a config; "
                "write the value out, or use a YAML anchor",
                place,
            )
    elif isinstance(value, float) and not math.isfinite(value):
        raise PasslError(f"'{path}' is {value}; a config holds finite numbers", place)
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise PasslError(
            f"'{path}' is a {type(value).__name__}; a config holds text, numbers, true, false, "
            "null, lists and mappings (put it in quotes if it is text)",
            place,
        )


def _record_origins(
    node: yaml.Node,
    name: str,
    path: str,
    origins: Dict[str, str],
    above: Tuple[yaml.Node, ...] = (),
) -> None:
    """Notes the line of every key and list item below ``node``."""
    if any(node is other for other in above):
        raise PasslError(f"the anchor at '{path}' contains itself", _origin(path, origins))
    if isinstance(node, yaml.MappingNode):
        items: List[Tuple[str, yaml.Node, yaml.Node]] = [
            (key.value, key, value) for key, value in node.value
        ]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(i), value, value) for i, value in enumerate(node.value)]
    else:
        return
    for key, key_node, value in items:
        origins[_join(path, key)] = f"{name}:{key_node.start_mark.line + 1}"
        _record_origins(value, name, _join(path, key), origins, (*above, node))


def shipped_configs() -> Dict[str, Path]:
    """Returns the configs that come with the package, by file name without ``.yaml``."""
    root = config_root()
    return {
        path.stem: path
        for path in sorted(root.rglob("*.yaml"))
        if path.parent != root / "zoo" and not path.stem.startswith("_")
    }


def _find(path: Union[str, os.PathLike]) -> Path:
    """Returns the file that ``-c PATH`` means: a path, or the name of a shipped config."""
    given = Path(expanded(os.fspath(path)))
    if given.is_file():
        return given
    if given.is_dir():
        raise PasslError(f"{path}: is a folder; a config is a YAML file")
    shipped = shipped_configs()
    bare = given.parent == Path() or given.parts[0] == "configs"
    if bare and given.stem in shipped and given.suffix in ("", ".yaml"):
        return shipped[given.stem]
    raise PasslError(
        f"{path}: there is no such config file{suggest(given.stem, shipped)}; "
        f"shipped configs, usable by name: {listing(shipped)}"
    )


def _load(path: Path, seen: Tuple[Path, ...], origins: Dict[str, str]) -> Dict[str, Any]:
    """Reads one file over its bases, base first, and notes where each key came from."""
    if path.resolve() in seen:
        raise PasslError(f"{path}: is its own _base_, through {seen[-1]}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PasslError(f"{path}: there is no such file, named as _base_ in {seen[-1]}") from None
    except OSError as error:
        raise explain_os_error(error, path, "read") from None
    except UnicodeDecodeError as error:
        raise PasslError(f"{path}: is not UTF-8 text ({error}); save it as such") from None
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise PasslError(f"{path}: a config is a mapping of keys to values; this is {values!r:.60}")
    bases = values.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise PasslError(f"{path}: _base_ is a file name or a list of them, not {bases!r}")
    own: Dict[str, str] = {}
    _record_origins(yaml.compose(text, Loader=_Loader), str(path), "", own)
    _refuse_odd_values(values, "", own)
    merged: Dict[str, Any] = {}
    for base in bases:
        below = _load(path.parent / expanded(base), (*seen, path.resolve()), origins)
        merged = _merge(merged, below)
    merged = _merge(merged, values)
    origins.update(own)
    return merged


def _merge(base: Dict[str, Any], over: Dict[str, Any]) -> Dict[str, Any]:
    _drop_replaced(base, over)
    merged = OmegaConf.merge(OmegaConf.create(base), OmegaConf.create(over))
    return OmegaConf.to_container(merged, resolve=False)


def _drop_replaced(base: Dict[str, Any], over: Dict[str, Any]) -> None:
    """Removes from ``base`` the mappings for which ``over`` names another component."""
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            if "name" in value and "name" in below and value["name"] != below["name"]:
                del base[key]
            else:
                _drop_replaced(below, value)


def _override(values: Dict[str, Any], override: str, origins: Dict[str, str]) -> Dict[str, Any]:
    """Applies one ``a.b.1.c=value``."""
    key, equals, text = override.partition("=")
    key = key.strip()
    place = f"-o {override}: "
    if not equals or not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+)*", key):
        raise PasslError("an override has the form key.key=value, a list item key.0=value", place)
    value = _override_value(key, text, f"-o {override}")
    _refuse_odd_values(value, key, {key: f"-o {override}"})
    node: Any = values
    parts = key.split(".")
    for i, part in enumerate(parts):
        at = ".".join(parts[:i]) or "the config"
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise PasslError(
                    f"{at} is a list of {len(node)}: '{part}' is not one of 0 to {len(node) - 1}",
                    place,
                )
            node = node[int(part)]
        elif isinstance(node, dict):
            node = node.get(part, {})
        elif node is None:
            node = {}
        else:
            raise PasslError(f"{at} is the value {node!r}, it has no '{part}' inside", place)
    cfg = OmegaConf.create(values)
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    for known in [known for known in origins if known.startswith(key + ".")]:
        del origins[known]
    for end in range(1, len(parts)):
        origins.setdefault(".".join(parts[:end]), f"-o {override}")
    origins[key] = f"-o {override}"
    return OmegaConf.to_container(cfg, resolve=False)


def _override_value(key: str, text: str, place: str) -> Any:
    """Returns what stands behind the ``=`` of an override: YAML, or what can only be text."""
    bare = text.strip()
    if _SUBSET.fullmatch(bare):
        return bare
    quotes = f"if it is text: -o {shlex.quote(f'{key}={json.dumps(bare, ensure_ascii=False)}')}"
    try:
        value = _parse_yaml(text, place)
    except PasslError as error:
        if bare[:1] not in ("[", "{"):
            error.args = (f"{error.args[0]}; {quotes}",)
        raise
    if isinstance(value, str) and bare[0] not in "'\"" and re.search(r"\s#", text):
        raise PasslError(f"a # after a space begins a comment; {quotes}", f"{place}: ")
    if isinstance(value, (bool, int, float)) and _wanted(key).startswith("takes text"):
        return bare  # a folder that is called 007, or 1e5
    return value


def get_config(path: Union[str, os.PathLike], overrides: Optional[Sequence[str]] = None) -> Config:
    """Reads a config file, its bases and the overrides, and checks the result.

    Args:
        path: a YAML file, or the bare name of a shipped config (``mlp-mixer_b16_224``).
        overrides: ``"a.b.c=value"`` strings; a number in the key picks a list item
            (``dataloader.train.dataset.transforms.1.size=128``); the value is YAML.

    Returns:
        The config with every default of the fixed sections filled in.

    Raises:
        PasslError: a missing file, bad YAML, an unknown key or a value of the wrong type, with
            file, line and the nearest valid key. Arguments of components (a backbone's, a
            transform's) are checked by the same rules when they are built.
    """
    file = _find(path)
    origins: Dict[str, str] = {}
    values = _load(file, (), origins)
    # The view of the images is filled in before overrides can change parts of it.
    overrides = sorted(overrides or (), key=lambda text: not text.startswith("preprocessing="))
    if overrides and overrides[0].startswith("preprocessing="):
        values = _override(values, overrides[0], origins)
        _fill_preprocessing(values, origins, replace=True)
    else:
        _fill_preprocessing(values, origins)
    for override in overrides:
        values = _override(values, override, origins)
    _fill_preprocessing(values, origins)  # for a dataset that an override put in the other's place
    renames = renamed_keys(values)
    if renames:
        raise PasslError(
            f"{file}: is written for PASSL v1; change these keys:\n"
            + "\n".join(f"  {_origin(key, origins)}{old}  →  {new}" for key, old, new in renames)
        )
    checked = _check(_expand_home(values, "", origins), file, origins)
    if checked["output_dir"] is None:
        checked["output_dir"] = os.path.join("output", file.stem)
    return Config(checked, "", origins)


def _expand_home(value: Any, path: str, origins: Mapping[str, str]) -> Any:
    """Returns values with the home folder in the place of ``~`` where a text begins with it.

    Raises:
        PasslError: it is not known.
    """
    if isinstance(value, dict):
        return {key: _expand_home(item, _join(path, key), origins) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand_home(item, _join(path, i), origins) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        return expanded(value)
    except PasslError as error:
        error.place = _origin(path, origins)
        raise


def _fill_preprocessing(
    values: Dict[str, Any], origins: Dict[str, str], replace: bool = False
) -> None:
    """Adds the view and the normalisation of the named release where the config gives none.

    Args:
        values: the config, changed in place.
        origins: of its keys; those of a list that gets items in front move along.
        replace: also where it gives them.
    """
    name, loaders = values.get("preprocessing"), values.get("dataloader")
    if name is None or not isinstance(loaders, dict):
        return
    try:
        preprocessing = get_release(name).preprocessing
    except PasslError as error:
        error.place = _origin("preprocessing", origins)
        raise
    for split, section in loaders.items():
        dataset = section.get("dataset") if isinstance(section, dict) else None
        if not isinstance(dataset, dict):
            continue
        path = f"dataloader.{split}.batch_transforms"
        section["batch_transforms"] = _with_first(
            preprocessing.batch_transforms(),
            section.get("batch_transforms"),
            replace,
            path,
            origins,
        )
        if split != "train" and (replace or "transforms" not in dataset):
            dataset["transforms"] = preprocessing.transforms()


def _with_first(
    first: List[Any], items: Any, replace: bool, path: str, origins: Dict[str, str]
) -> Any:
    """Returns a list of components that begins with ``first``, unless it has one of them already.

    Args:
        first: configs with a ``name``.
        items: the list; what is none is left for the check of the whole config to refuse.
        replace: puts them in the place of those that it has.
        path: where the list stands in the config.
        origins: of the config's keys, changed in place.
    """
    if items is not None and not isinstance(items, list):
        return items
    items = items or []
    names = {item["name"] for item in first}
    same = [
        i for i, item in enumerate(items) if isinstance(item, dict) and item.get("name") in names
    ]
    if same and not replace:
        return items
    kept = [i for i in range(len(items)) if i not in same]
    places = {old: len(first) + new for new, old in enumerate(kept)}
    moved = {}
    for key in [key for key in origins if key.startswith(path + ".")]:
        place = origins.pop(key)
        number, _, rest = key[len(path) + 1 :].partition(".")
        if int(number) in places:
            moved[_join(_join(path, places[int(number)]), rest).rstrip(".")] = place
    origins.update(moved)
    return first + [items[i] for i in kept]


def split_section(cfg: Config, split: str) -> Config:
    """Returns ``dataloader.<split>`` of a config.

    Raises:
        PasslError: the config has no such section.
    """
    section = cfg.dataloader[split]
    if section is None:
        there = [name for name, other in cfg.dataloader.items() if other is not None]
        # Who trains or measures training names no split.
        choice = "; choose with --split" if there and split != "train" else ""
        raise PasslError(
            f"the config has no dataloader.{split} section; it has: {listing(there) or 'none'}"
            f"{choice}",
            place=origin_of(cfg, "dataloader"),
        )
    return section


def with_defaults(values: Dict[str, Any]) -> Dict[str, Any]:
    """Returns a config that an earlier version has written, with the keys that are new since.

    They get the values that make no difference: their defaults.
    """
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Schema), values)
    except omegaconf.errors.OmegaConfBaseException:  # of keys that are gone; the caller tells which
        return values
    return OmegaConf.to_container(cfg, resolve=False, structured_config_mode="dict")


def _wanted(key: str) -> str:
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


def _check(values: Dict[str, Any], file: Path, origins: Mapping[str, str]) -> Dict[str, Any]:
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
            f"'{key}' {_wanted(key)}: {str(error).splitlines()[0]}",
            _origin(key, origins) or f"{file}: ",
        ) from None
    except (TypeError, ValueError) as error:  # OmegaConf lets some mismatches through to Python
        raise PasslError(f"{file}: a section has the wrong type ({error})") from None
    if checked["device"] not in ("auto", "cpu", "gpu"):
        raise PasslError(
            f"'device' is auto, cpu or gpu, not {checked['device']!r}", _origin("device", origins)
        )
    for key, least in _LEAST.items():
        value: Any = checked
        for part in key.split("."):
            value = value[part] if value is not None else None
        if value is not None and value < least:
            raise PasslError(
                f"'{key}' must be at least {least}, not {value}", _origin(key, origins)
            )
    return checked


def _refuse_unknown(values: Any, section: type, path: str, origins: Mapping[str, str]) -> None:
    known = typing.get_type_hints(section)
    if values is None:
        return
    if not isinstance(values, dict):
        raise PasslError(
            f"'{path}' holds the keys {listing(known)}, not the value {values!r}",
            _origin(path, origins),
        )
    for key, value in values.items():
        if key not in known:
            where = f"of '{path}'" if path else "at the top level"
            raise PasslError(
                f"unknown key '{key}' {where}{suggest(key, known)}; known: {listing(known)}",
                _origin(_join(path, key), origins),
            )
        hints = (known[key], *typing.get_args(known[key]))
        for kind, word in ((dict, "a mapping"), (list, "a list")):
            expected = any(typing.get_origin(hint) is kind for hint in hints)
            if expected and value is not None and not isinstance(value, kind):
                raise PasslError(
                    f"'{_join(path, key)}' is {word}, not {value!r}",
                    _origin(_join(path, key), origins),
                )
        for hint in hints:
            if dataclasses.is_dataclass(hint):
                _refuse_unknown(value, hint, _join(path, key), origins)
