"""Which parameters learn how fast, and which of them decay."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from paddle import nn

from passl.utils.config import origin_of
from passl.utils.errors import PasslError, listing, suggest

_OPTIONS = ("parameters", "lr_scale", "lr", "weight_decay", "adapt")


@dataclasses.dataclass
class ParameterGroup:
    """Trainable parameters that an optimizer treats alike.

    Attributes:
        weight_decay: the coefficient.
        lr_scale: factor of the learning rate.
        lr: a learning rate of its own, which no schedule changes; None for the run's.
        adapt: whether an optimizer that adapts its rate to a parameter does so here.
        names: by the network's names.
    """

    weight_decay: float
    lr_scale: float
    lr: Optional[float] = None
    adapt: bool = True
    names: List[str] = dataclasses.field(default_factory=list)


def trainable_parameters(model: nn.Layer) -> List[Tuple[str, Any]]:
    """Returns the parameters that learn, with their names."""
    return [(n, p) for n, p in model.named_parameters() if not p.stop_gradient]


def undecayed_names(model: nn.Layer) -> Set[str]:
    """Returns the names of the parameters that weight decay leaves alone.

    Biases and the scales of norm layers are those with one axis; a sublayer adds names of its
    own through ``no_weight_decay``.
    """
    names = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    for prefix, layer in model.named_sublayers(include_self=True):
        for name in getattr(layer, "no_weight_decay", ()):
            names.add(f"{prefix}.{name}" if prefix else name)
    return names


def layer_scales(model: nn.Layer, layer_decay: float) -> Dict[str, float]:
    """Returns the factor of the learning rate of every parameter, by its depth.

    It is ``layer_decay`` to the power of the number of layers above (Clark et al., ELECTRA,
    arXiv 2003.10555; for images Bao et al., BEiT, arXiv 2106.08254). A backbone says how deep its
    parameters lie (``parameter_depths``); what stands outside of it, the head, is the top layer.

    Raises:
        PasslError: a factor out of bounds, or a network that does not know its depths.
    """
    if not 0 < layer_decay <= 1:
        raise PasslError(f"layer_decay lies in (0, 1], not {layer_decay}")
    if layer_decay == 1:
        return {}
    depths: Dict[str, int] = {}
    for prefix, layer in model.named_sublayers(include_self=True):
        for name, depth in getattr(layer, "parameter_depths", {}).items():
            depths[f"{prefix}.{name}" if prefix else name] = depth
    if not depths:
        raise PasslError(
            "this network does not say how deep its parameters lie; leave layer_decay out"
        )
    top = max(depths.values()) + 1
    return {
        name: layer_decay ** (top - depths.get(name, top)) for name, _ in model.named_parameters()
    }


def parameter_groups(
    model: nn.Layer,
    weight_decay: float,
    layer_decay: float = 1.0,
    groups: Sequence[Mapping[str, Any]] = (),
) -> List[ParameterGroup]:
    """Returns the trainable parameters in groups.

    Args:
        model: the network.
        weight_decay: of all but biases, norms and what the network exempts.
        layer_decay: see ``layer_scales``.
        groups: exceptions: ``parameters``, a pattern of names with ``*`` and ``?`` or a list of
            them; ``lr_scale``, a further factor of the learning rate; ``lr``, a constant rate in
            the place of the scheduled one; ``weight_decay``, in the place of the other, for all
            that match; ``adapt: false``, with LARS, for plain momentum. A parameter obeys the first
            that it matches.

    Raises:
        PasslError: a number out of bounds, an unknown key, a pattern that matches nothing.
    """
    _check_decay(weight_decay)
    scales = layer_scales(model, layer_decay)
    undecayed = undecayed_names(model)
    names = [name for name, _ in trainable_parameters(model)]
    exceptions: Dict[str, _Exception] = {}
    for group in groups:
        patterns, exception = _read_exception(group)
        for pattern in patterns:
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise PasslError(
                    f"'{pattern}' matches none of the trainable parameters"
                    f"{suggest(pattern, names)}; they are called {names[0]} … {names[-1]}",
                    place=origin_of(group, "parameters"),
                )
            for name in matching:
                exceptions.setdefault(name, exception)
    found: Dict[Tuple[float, float, Optional[float], bool], ParameterGroup] = {}
    for name in names:
        factor, decay, rate, adapt = exceptions.get(name, _Exception())
        if decay is None:
            decay = 0.0 if name in undecayed else float(weight_decay)
        key = decay, scales.get(name, 1.0) * factor, rate, adapt
        found.setdefault(key, ParameterGroup(*key)).names.append(name)
    return list(found.values())


def _check_decay(weight_decay: float, place: str = "") -> None:
    if not 0 <= weight_decay < math.inf:
        raise PasslError(f"weight_decay is at least 0, not {weight_decay}", place=place)


class _Exception(NamedTuple):
    """What a config says of some parameters."""

    lr_scale: float = 1.0
    weight_decay: Optional[float] = None
    lr: Optional[float] = None
    adapt: bool = True


def _read_exception(group: Mapping[str, Any]) -> Tuple[List[str], _Exception]:
    for key in group:
        if key not in _OPTIONS:
            raise PasslError(
                f"unknown key '{key}' of a parameter group{suggest(key, _OPTIONS)}; known: "
                f"{listing(_OPTIONS)}",
                place=origin_of(group, key),
            )
    patterns = group.get("parameters")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, (list, tuple)) or not all(isinstance(p, str) for p in patterns):
        raise PasslError(
            "a parameter group needs 'parameters', a pattern of names or a list of them",
            place=origin_of(group),
        )
    numbers = {
        "lr_scale": group.get("lr_scale", 1.0),
        "weight_decay": group.get("weight_decay"),
        "lr": group.get("lr"),
    }
    for key, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise PasslError(
                f"{key} of a parameter group is a number, not {value!r}",
                place=origin_of(group, key),
            )
    factor, decay, rate = numbers.values()
    adapt = group.get("adapt", True)
    if not isinstance(adapt, bool):
        raise PasslError(
            f"adapt of a parameter group is true or false, not {adapt!r}",
            place=origin_of(group, "adapt"),
        )
    if factor is None or not 0 <= factor < math.inf:
        raise PasslError(
            f"lr_scale is at least 0, not {factor}", place=origin_of(group, "lr_scale")
        )
    if decay is not None:
        _check_decay(decay, origin_of(group, "weight_decay"))
        decay = float(decay)
    if rate is not None and ("lr_scale" in group or not 0 <= rate < math.inf):
        raise PasslError(
            f"lr of a parameter group is a rate, at least 0, in the place of lr_scale; not {rate}",
            place=origin_of(group, "lr"),
        )
    return list(patterns), _Exception(float(factor), decay, rate and float(rate), adapt)
