#!/usr/bin/env python3
"""Writes what the documents take from the code: the model zoo's table and the config reference.

They stand in the files listed at the end, each between two markers. Run this after
a change of configs/zoo/ or of anything that a config can name; a test fails until all agree.
"""

import dataclasses
import inspect
import re
import sys
from pathlib import Path

import docstring_parser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import passl  # noqa: E402, F401  before anything imports paddle
from passl.datasets import BATCH_TRANSFORMS, DATASETS, TRANSFORMS  # noqa: E402
from passl.evaluation import EVALUATORS  # noqa: E402
from passl.hooks import HOOKS  # noqa: E402
from passl.hooks.boards import BOARDS  # noqa: E402
from passl.modeling.architectures import ARCHITECTURES  # noqa: E402
from passl.modeling.backbones import BACKBONES  # noqa: E402
from passl.modeling.heads import HEADS  # noqa: E402
from passl.solver.optimizers import OPTIMIZERS  # noqa: E402
from passl.solver.schedules import SCHEDULES  # noqa: E402
from passl.utils import config  # noqa: E402
from passl.utils.migration import V1_CHANGES  # noqa: E402
from passl.utils.zoo import as_markdown, as_short_markdown  # noqa: E402

# Where in a config each registry's entries stand, and what the program itself supplies to them.
PARTS = (
    ("model", ARCHITECTURES, "`model.name`; a `Classifier` without one", ()),
    ("model.architecture", BACKBONES, "the backbone", ()),
    ("model.head", HEADS, "the head", ("in_channels",)),
    ("dataloader.*.dataset", DATASETS, "where images come from", ()),
    ("dataloader.*.dataset.transforms", TRANSFORMS, "a list; one image at a time, uint8", ()),
    (
        "dataloader.*.batch_transforms",
        BATCH_TRANSFORMS,
        "a list; the whole batch, on the device",
        (),
    ),
    (
        "lr_scheduler",
        SCHEDULES,
        "the learning rate of every step",
        ("total_steps", "steps_per_epoch", "global_batch"),
    ),
    ("optimizer", OPTIMIZERS, "how weights are changed", ("model",)),
    ("evaluate.evaluator", EVALUATORS, "what says how good the network is", ()),
    ("log_config.boards", BOARDS, "a list of names, or of mappings with `name` and arguments", ()),
    ("hooks", HOOKS, "a list; besides the three that are always there", ()),
)
BUILT_IN_HOOKS = ("Board", "Console", "Checkpoint")


def cell(text):
    """Returns a docstring's text for a cell of a table."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).replace("|", "\\|").strip()


def value(default):
    if default is None:
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default) if isinstance(default, tuple) else default}`"


def documented_arguments(cls):
    """Returns what the docstrings of a class and its bases say of each argument."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__doc__ and base is not object:
            for parameter in docstring_parser.parse(inspect.cleandoc(base.__doc__)).params:
                if parameter.args[0] == "param":
                    for name in parameter.arg_name.split(", "):
                        found[name] = parameter.description
    return found


def component(registry, name, supplied):
    factory = registry.get(name)
    described = documented_arguments(factory)
    summary = cell(docstring_parser.parse(inspect.cleandoc(factory.__doc__)).short_description)
    lines = [f"#### {name}", "", summary, ""]
    arguments = {k: a for k, a in registry.arguments(name).items() if k not in supplied}
    if arguments:
        lines += ["| argument | | default | |", "|---|---|---|---|"]
        for key, argument in arguments.items():
            default = "*needed*" if argument.needed else value(argument.default)
            kind = cell(argument.type)
            lines.append(f"| `{key}` | {kind} | {default} | {cell(described.get(key, ''))} |")
        lines.append("")
    return lines


def sections():
    """Returns tables of the sections whose keys are fixed."""
    lines, waiting = [], [("", config.Schema)]
    while waiting:
        path, section = waiting.pop(0)
        source = inspect.getsource(section)
        lines += [f"### `{path}`" if path else "### The top level", ""]
        lines += ["| key | default | |", "|---|---|---|"]
        for field in dataclasses.fields(section):
            key = f"{path}.{field.name}" if path else field.name
            comment = re.search(rf"^    {field.name}: .*?  # (.*)$", source, re.M)
            named = re.search(r"\w+Section", str(field.type))
            inner = getattr(config, named.group()) if named else None
            default = field.default
            if default is dataclasses.MISSING:
                default = field.default_factory()
            text = comment.group(1) if comment else ""
            if inner is not None:
                if inner is not config.SplitSection or field.name == "train":
                    waiting.append((key.replace("dataloader.train", "dataloader.*"), inner))
                text = f"a section, see below; {text}" if text else "a section, see below"
                shown = "–" if default is None else ""
            elif default == "???":
                shown = "*needed*"
            else:
                shown = value(default)
            lines.append(f"| `{field.name}` | {shown} | {cell(text)} |")
        lines.append("")
    return lines


def config_reference():
    lines = ["## Sections", "", *sections(), "## Components", ""]
    for place, registry, what, supplied in PARTS:
        lines += [f"### `{place}`: {what}", ""]
        variants = []
        for name in registry.names():
            if registry is HOOKS and name in BUILT_IN_HOOKS:
                continue
            if inspect.isclass(registry.get(name)):
                lines += component(registry, name, supplied)
            else:
                variants.append(name)
        if variants:
            names = ", ".join(f"`{name}`" for name in variants)
            lines += [f"With other defaults, those of the papers: {names}.", ""]
    return "\n".join(lines).rstrip()


def v1_changes():
    lines = ["| key of PASSL v1 | value | here |", "|---|---|---|"]
    for key, old, new in V1_CHANGES:
        lines.append(f"| `{key}` | {'any' if old is None else f'`{old}`'} | {cell(new)} |")
    return "\n".join(lines)


# What the page of the Python side tells of, besides what `passl.__all__` has, with its methods.
MORE = {
    "passl.Predictor": ("__call__",),
    "passl.TrainedNetwork": (),
    "passl.View": (),
    "passl.Prediction": (),
}


def documented(name, thing, level="###"):
    """Returns the signature and the docstring of a function or class."""
    text = docstring_parser.parse(inspect.cleandoc(thing.__doc__))
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.name != "self"
    ]
    lines = [f"{level} {name}", "", f"`{name}{inspect.Signature(parameters)}`", ""]
    lines += [cell(part) for part in (text.short_description, text.long_description) if part]
    for title, kind in (("argument", "param"), ("attribute", "attribute")):
        rows = [p for p in text.params if p.args[0] == kind]
        if rows:
            lines += ["", f"| {title} | |", "|---|---|"]
            lines += [f"| `{p.arg_name}` | {cell(p.description)} |" for p in rows]
    if text.returns is not None:
        lines += ["", f"Returns: {cell(text.returns.description)}"]
    for raised in text.raises:
        lines += ["", f"Raises `{raised.type_name}`: {cell(raised.description)}"]
    if text.examples:
        lines += ["", "```pycon", *(example.description for example in text.examples), "```"]
    return [*lines, ""]


def api_reference():
    import passl.deployment.predictor
    import passl.using

    others = {
        "passl.TrainedNetwork": passl.using.TrainedNetwork,
        "passl.View": passl.using.View,
        "passl.Prediction": passl.deployment.predictor.Prediction,
    }
    things = {f"passl.{n}": getattr(passl, n) for n in passl.__all__ if n != "__version__"}
    lines = []
    for name, thing in {**things, **others}.items():
        lines += documented(name, thing)
        for method in MORE.get(name, ()):
            lines += documented(f"{name}.{method}", getattr(thing, method), "####")
    return "\n".join(lines).rstrip()


# What the READMEs show of the zoo.
SIX = (
    "mlp_mixer_b16_224.goog_in1k",
    "mlp_mixer_l16_224.goog_in1k",
    "resmlp_12_224.fb_in1k",
    "cyclemlp_b1.authors_in1k",
    "vit_b16_224.augreg_in21k_ft_in1k",
    "swin_t_224.ms_in1k",
)

GENERATED = {
    "zoo": as_markdown,
    "six of the zoo": lambda: as_short_markdown(SIX),
    "v1 changes": v1_changes,
    "config reference": config_reference,
    "api": api_reference,
}
FILES = {
    "README.md": "six of the zoo",
    "README_zh.md": "six of the zoo",
    "docs/released_weights.md": "zoo",
    "docs/api.md": "api",
    "docs/configs.md": "config reference",
    "docs/migration.md": "v1 changes",
}


def with_generated(text, name):
    """Returns a document with what stands between the markers of ``name`` made anew."""
    begin = f"<!-- {name}: scripts/generated_docs.py writes this -->\n"
    end = f"<!-- end of {name} -->\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if begin not in text or end not in text:
        sys.exit(f"error: the markers of '{name}' are missing")
    return f"{before}{begin}{GENERATED[name]()}\n{end}{after}"


if __name__ == "__main__":
    for file, name in FILES.items():
        path = ROOT / file
        path.write_text(with_generated(path.read_text(encoding="utf-8"), name), encoding="utf-8")
