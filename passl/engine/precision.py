"""Mixed precision: what a GPU computes in 16 bits, and what keeps its 32.

Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740, through ``paddle.amp``.
"""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager, List, Mapping, Optional, Tuple

import paddle
from paddle.amp.auto_cast import need_keep_fp32

from passl.modeling.architectures import Architecture
from passl.solver import Optimizer
from passl.utils.errors import PasslError
from passl.utils.logging import logger


class Precision:
    """The ``amp`` section of a config, as the engine applies it.

    Args:
        section: of the config; None computes in float32 throughout.
        device: ``cpu`` or ``gpu``, the one selected.

    Attributes:
        dtype: of products: ``float32``, ``bfloat16`` or ``float16``.
        level: ``O1`` or ``O2``.

    Raises:
        PasslError: the device cannot do it.
    """

    def __init__(self, section: Optional[Mapping[str, Any]], device: str):
        self.dtype, self.level = "float32", "O1"
        self._first_scale = 1.0
        if section is None:
            return
        capability = paddle.device.cuda.get_device_capability() if device == "gpu" else None
        self.dtype = choose_dtype(section["dtype"], capability)
        self.level = section["level"]
        if self.level not in ("O1", "O2"):
            raise PasslError(f"amp.level is O1 or O2, not {self.level!r}")
        if self.dtype == "float16":  # bfloat16 has the range of float32
            self._first_scale = section["loss_scale"]
        logger.info("mixed precision: %s, level %s", self.dtype, self.level)

    @classmethod
    def where_possible(cls, section: Optional[Mapping[str, Any]], device: str) -> Precision:
        """Returns the precision of a trial: on a processor float32, whatever a run is to have."""
        return cls(section if device == "gpu" else None, device)

    def __str__(self) -> str:
        return "float32" if self.dtype == "float32" else f"{self.dtype} {self.level}"

    def autocast(self) -> ContextManager[None]:
        """Returns the context in which the network is run forward."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return paddle.amp.auto_cast(level=self.level, dtype=self.dtype)

    @property
    def has_narrow_weights(self) -> bool:
        """Whether the network holds weights of 16 bits: level O2."""
        return self.dtype != "float32" and self.level == "O2"

    def prepare(self, architecture: Architecture, optimizer: Optimizer) -> None:
        """Casts the weights for O2 and begins to scale the loss; the weights are in place by now.

        The optimizer keeps the float32 weights as they are here: nothing is lost by the cast.
        Weights that do not learn stay in float32, as they came.
        """
        if self.dtype == "float16":
            optimizer.loss_scaling.begin(self._first_scale)
        if self.has_narrow_weights:
            optimizer.narrow(_castable(architecture, self.dtype), self.dtype)


def _castable(architecture: Architecture, dtype: str) -> List[str]:
    """Returns the names of the parameters that learn, but for those of norms that need float32."""
    layers = architecture.named_sublayers(include_self=True)
    return [
        f"{prefix}.{name}" if prefix else name
        for prefix, layer in layers
        if not need_keep_fp32(layer, dtype)
        for name, parameter in layer.named_parameters(include_sublayers=False)
        if not parameter.stop_gradient and parameter.dtype == paddle.float32
    ]


def choose_dtype(wanted: Optional[str], capability: Optional[Tuple[int, int]]) -> str:
    """Returns the 16-bit dtype to compute in.

    Args:
        wanted: ``bfloat16``, ``float16``, or None for the first of them that the GPU has.
        capability: the GPU's compute capability (``(7, 0)`` is a V100, ``(8, 0)`` an A100); None
            without a GPU.

    Raises:
        PasslError: the device has not got it.
    """
    if wanted not in (None, "bfloat16", "float16"):
        raise PasslError(f"amp.dtype is bfloat16 or float16, not {wanted!r}")
    if capability is None:
        raise PasslError(
            "mixed precision needs a GPU: on a processor PaddlePaddle computes in float32 whatever "
            "it is asked for; leave amp out (-o amp=null)"
        )
    if capability < (7, 0):
        raise PasslError(
            "mixed precision needs a GPU of compute capability 7.0 (V100) or newer; this one has "
            f"{capability[0]}.{capability[1]}; leave amp out (-o amp=null)"
        )
    if capability < (8, 0) and wanted == "bfloat16":
        raise PasslError(
            "bfloat16 needs a GPU of compute capability 8.0 (A100) or newer; this one has "
            f"{capability[0]}.{capability[1]}; set -o amp.dtype=float16"
        )
    return wanted or ("bfloat16" if capability >= (8, 0) else "float16")
