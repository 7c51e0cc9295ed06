"""A look at a run before it is made: its recipe as a table, two steps, and pictures of both."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle

from passl.datasets.transforms.views import one_by_one
from passl.distributed.processes import Processes, launched_size
from passl.engine.checks import check_images
from passl.engine.plan import Plan, check_sections, make_plan
from passl.engine.precision import Precision
from passl.engine.step import trial_step
from passl.hooks import build_hooks
from passl.inspection.costs import count_macs, kept_for_backward
from passl.inspection.made_up import made_up_batch
from passl.inspection.pictures import draw_augmented, draw_schedule
from passl.solver import WeightAverage
from passl.utils.config import Config
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.whole_files import filling
from passl.weights import load_weights

Row = Tuple[str, str]

_MICRO_BATCH = 2
_STEPS = 2
_MB = 1e6


def dry_run(
    cfg: Config,
    pretrained: Optional[str] = None,
    weights_key: Optional[str] = None,
    allow_partial: bool = False,
) -> List[Row]:
    """Builds all that a run needs, prints its recipe, makes two steps, and draws it.

    Nothing of a run is begun or touched: it writes ``dry-run/schedule.png`` and
    ``dry-run/augmented.png`` into ``cfg.output_dir``.

    Args:
        cfg: the whole config.
        pretrained, weights_key, allow_partial: as for ``train``; weights are loaded to see that
            they fit.

    Returns:
        The table.

    Raises:
        PasslError: anything in config and data that training would stop at before its first step.
            What asks for a GPU (amp, sharding) is not looked at: this is run on one's desk.
    """
    if launched_size() > 1:
        raise PasslError("a dry run is made by one process; start it without the launcher")
    device = select_device(cfg.device, cfg.tf32)
    check_sections(cfg, 1)
    plan = make_plan(cfg, Processes())
    cfg = plan.cfg
    if pretrained is not None:
        report = load_weights(
            plan.architecture, pretrained, weights_key, allow_partial, new_head=True,
            class_names=plan.datasets["train"].class_names,
        )  # fmt: skip
        plan.architecture.after_loading(report)
    build_hooks(cfg, plan.evaluator)
    average = None if cfg.ema is None else WeightAverage(plan.architecture, **cfg.ema)
    for name, dataset in plan.datasets.items():
        check_images(plan.architecture, dataset, plan.sections[name], name, cfg.seed)
    rows = [*_describe(cfg, plan), *_try_steps(cfg, plan, device, average)]
    folder = Path(cfg.output_dir) / "dry-run"
    with filling(folder):
        draw_schedule(folder / "schedule.png", plan.schedule, plan.total_steps)
        draw_augmented(folder / "augmented.png", cfg, plan.datasets["train"])
    rows.append(("drawn", f"{folder / 'schedule.png'}, {folder / 'augmented.png'}"))
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """Returns the rows as text in two columns."""
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        for i, line in enumerate(text.split("\n")):
            lines.append(f"{name if i == 0 else '':{width}}  {line}")
    return "\n".join(lines)


# ---------------------------------------------------------------- the recipe


def _describe(cfg: Config, plan: Plan) -> List[Row]:
    train = cfg.dataloader.train
    architecture = plan.architecture
    parameters = [p for p in architecture.parameters() if not p.stop_gradient]
    learning = sum(p.size for p in parameters)
    everything = sum(p.size for p in architecture.parameters())
    frozen = f", {everything - learning:,} of them frozen" if everything > learning else ""
    schedule, per_epoch = plan.schedule, plan.steps_per_epoch
    rows = [
        # An architecture that is no network and head stands in the section itself.
        ("network", _component(cfg.model.get("architecture") or cfg.model)),
        *_further_parts(cfg),
        ("parameters", f"{everything:,}{frozen}"),
        (
            "images",
            ", ".join(f"{name} {len(data):,}" for name, data in plan.datasets.items())
            + f" ({train.dataset.name})",
        ),
        (
            "epochs",
            f"{cfg.epochs} of {per_epoch:,} steps: {plan.total_steps:,} steps, "
            f"{plan.total_steps * plan.global_batch:,} images",
        ),
        ("global batch", _batches(cfg, plan)),
        ("learning rate", _rates(cfg, plan)),
        ("warm-up", f"{schedule.warmup:,} steps, {schedule.warmup / per_epoch:.3g} epochs"),
        ("optimizer", _component(cfg.optimizer)),
        ("groups", _groups(plan)),
        (
            "augmentation",
            "\n".join(_transforms(train.dataset.get("transforms") or [])) or "none",
        ),
        ("of a batch", "\n".join(map(_component, train.batch_transforms)) or "none"),
    ]
    rows += [
        (f"view of {name}", "\n".join(_transforms(section.dataset.transforms)))
        for name, section in plan.sections.items()
        if name != "train" and section.dataset.get("transforms")
    ]
    if cfg.ema is not None:
        rows.append(("average", f"of the weights, decay {cfg.ema.decay:g}"))
    return rows


def _further_parts(cfg: Config) -> List[Row]:
    """Returns what a model's section says besides its backbone: head, projector, temperature."""
    if not cfg.model.get("architecture"):
        return []  # the section as a whole is the row before
    rows = [("method", cfg.model.name)] if cfg.model.get("name") else []
    for key, value in cfg.model.items():
        if key not in ("name", "architecture") and value not in (None, []):
            text = _component(value) if isinstance(value, Mapping) else _value(value)
            rows.append((key, text))
    return rows


def _transforms(transforms: Sequence[Mapping[str, Any]]) -> List[str]:
    """Returns a line for each transform; those of views stand below the numbers of the views."""
    lines: List[str] = []
    for cfg in transforms:
        if cfg.get("name") != "Views":
            lines.append(_component(cfg))
            continue
        views = one_by_one(*(cfg.get(key) for key in ("views", "count", "transforms")))
        for view, alike in itertools.groupby(enumerate(views, 1), key=lambda pair: pair[1]):
            numbers = [number for number, _ in alike]
            which = (
                f"views {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"view {numbers[0]}"
            )
            if len(numbers) == len(views):
                which = f"each of {len(views)} views"
            lines += [f"{which}:", *(f"  {_component(transform)}" for transform in view)]
    return lines


def _component(cfg: Mapping[str, Any]) -> str:
    """Returns ``Name(argument=value, …)``; of what has no name the arguments alone."""
    arguments = ", ".join(f"{key}={_value(value)}" for key, value in cfg.items() if key != "name")
    return f"{cfg['name']}({arguments})" if "name" in cfg else arguments


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Mapping):
        return _component(value) if "name" in value else f"{{{_component(value)}}}"
    return str(value)


def _batches(cfg: Config, plan: Plan) -> str:
    """Says what a step is made of, by this process and by as many as people have."""
    size = cfg.dataloader.train.sampler.batch_size
    if cfg.global_batch_size is None:
        return f"{plan.global_batch:,}: {size} a process, here and on any number of processes more"
    counts = [n for n in (1, 2, 4, 8, 16, 32) if plan.global_batch % (size * n) == 0]
    parts = [f"{plan.global_batch // (size * n)} on {n}" for n in counts]
    return f"{plan.global_batch:,}: batches of {size}, accumulated {', '.join(parts)} processes"


def _rates(cfg: Config, plan: Plan) -> str:
    schedule = plan.schedule
    text = f"{type(schedule).__name__}, peak {schedule.learning_rate:g}"
    reference = cfg.lr_scheduler.get("reference_batch_size")
    if reference is not None:
        text += (
            f" ({cfg.lr_scheduler.learning_rate:g} at {reference} images a step, "
            f"{cfg.lr_scheduler.get('scaling', 'linear')} rule)"
        )
    return text + f", last step {schedule(plan.total_steps - 1):.3g}"


def _groups(plan: Plan) -> str:
    parameters = dict(plan.architecture.named_parameters())
    lines = []
    for group in plan.optimizer.groups:
        count = sum(parameters[name].size for name in group.names)
        decay = f"decay {group.weight_decay:g}" if group.weight_decay else "no decay"
        rate = f", rate × {group.lr_scale:.4g}" if group.lr_scale != 1 else ""
        if group.lr is not None:
            rate = f", rate {group.lr:.4g} throughout"
        rate += "" if group.adapt else ", not adapted"
        lines.append(f"{decay}{rate}: {count:,} parameters in {len(group.names)} tensors")
        lines += [f"  {kind}" for kind in _kinds(group.names)]
    return "\n".join(lines)


def _kinds(names: Sequence[str]) -> List[str]:
    """Returns names with their numbers left out, each once, so that blocks are not listed."""
    return list(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names))


# ---------------------------------------------------------------- two steps


def _try_steps(cfg: Config, plan: Plan, device: str, average: Optional[WeightAverage]) -> List[Row]:
    """Makes two steps on made-up pixels as the run would; what they cost is counted in the first.

    Of a step that accumulates, two micro-batches are made.
    """
    architecture = plan.architecture
    count = max(_MICRO_BATCH, architecture.least_batch)
    batch = made_up_batch(cfg, plan.datasets["train"], architecture, count)
    architecture.train()
    with paddle.no_grad():
        macs = count_macs(architecture, lambda: architecture(batch))
    precision = Precision.where_possible(cfg.amp, device)
    with precision.autocast():
        kept = kept_for_backward(architecture, lambda: architecture(batch), cfg.recompute)
    accumulation = min(plan.accumulation, 2)
    images = count * accumulation
    step = trial_step(cfg, architecture, plan.optimizer, precision, images, accumulation, average)
    losses, started = [], time.perf_counter()
    for number in range(_STEPS):
        # At a rate that moves something: the first one of a warm-up may be zero.
        result = step(number, itertools.repeat(batch), plan.schedule.learning_rate)
        losses.append(sum(loss.item() for loss in result.losses) / accumulation)
    seconds = time.perf_counter() - started
    if not np.isfinite(losses).all():
        raise PasslError(f"the loss of two steps on made-up images is not finite: {losses}")
    gmacs = macs / count / 1e9
    rows = [
        (
            "operations",
            f"{gmacs:.4g} G multiply-adds an image forward, {6 * gmacs:.4g} GFLOP in training",
        ),
        ("memory", _memory(cfg, plan, kept / count, precision)),
        (
            "two steps",
            f"of {count} made-up images on {device}: loss {losses[0]:.4f}, {losses[1]:.4f}; "
            f"{seconds:.1f} s",
        ),
    ]
    return rows


def _memory(cfg: Config, plan: Plan, activations: float, precision: Precision) -> str:
    """Estimates what a process needs.

    The fixed part is the parameters, their gradients, the optimizer's state as it is after the
    steps, the average of the weights, and with several processes the buffers of the exchange. Mixed
    precision keeps between 0.56 and 0.78 of B/16's float32 activations (docs/scaling.md).
    """
    weights = sum(p.size * p.element_size() for p in plan.architecture.parameters())
    learning = [p for p in plan.architecture.parameters() if not p.stop_gradient]
    gradients = sum(p.size * p.element_size() for p in learning)
    state = sum(array.nbytes for array in plan.optimizer.state_dict().values())
    average = gradients if cfg.ema is not None else 0
    fixed = weights + gradients + state + average
    size = cfg.dataloader.train.sampler.batch_size
    text = (
        f"{fixed / _MB:,.0f} MB of weights, gradients and optimizer state "
        f"(+ {gradients / _MB:,.0f} MB on several processes)\n"
    )
    if not activations:
        return text + "what an image needs is counted with PaddlePaddle 3 alone"
    return text + (
        f"{activations / _MB:,.1f} MB an image kept in {precision}: {size} images "
        f"{size * activations / _MB:,.0f} MB; together "
        f"{(fixed + size * activations) / _MB:,.0f} MB a process\n"
        "without what operations need for a moment"
        + (
            ", and without amp, which keeps about 0.6 to 0.8 of the images' part"
            if precision.dtype == "float32"
            else ""
        )
    )
