"""The small networks of self-supervised methods: projectors and predictors."""

from __future__ import annotations

import math
from typing import Optional

import paddle.nn.functional as F
from paddle import nn

from passl.modeling.heads.registry import HEADS
from passl.modeling.layers import (
    BatchNorm1D,
    Linear,
    check_sizes,
    normal_,
    truncated_normal_,
    uniform_,
    zeros_,
)
from passl.utils.errors import PasslError

_INITS = ("torch", "normal", "truncated_normal")
_OUT_NORMS = (None, "affine", "scale", "plain")


class _ScaledNorm(nn.Layer):
    """Batch normalisation with a scale that is learned and no offset.

    Not by a frozen offset: Paddle gives the scale no gradient then.

    Shape:
        input and output: ``[N, channels]``.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = BatchNorm1D(channels, affine=False)
        self.weight = self.create_parameter(
            [channels], default_initializer=nn.initializer.Constant(1.0)
        )

    def forward(self, x):
        return self.norm(x) * self.weight


@HEADS.register
class ProjectionHead(nn.Layer):
    """Maps features into a space in which a loss compares them: linear maps with ReLU between.

    With its defaults it is the projector of SimCLR's paper but for its sizes (arXiv 2002.05709,
    section 2.1 and appendix B.4); each method's file has those of its own paper.

    Args:
        in_channels: size of the features.
        hidden: width of all maps but the last.
        out: size of what comes out.
        layers: how many linear maps; 1 is a linear head, as MoCo v1 has.
        norm: whether a batch norm stands between each map but the last and its ReLU.
        bias: whether these maps have biases.
        out_bias: whether the last map has one.
        out_norm: the batch norm after the last map: none, ``affine``, with a ``scale`` but no
            offset, or ``plain``, which learns nothing.
        init: of the linear maps: ``torch`` for that library's default, uniform within 1 / √inputs;
            ``normal`` of standard deviation 0.01; or ``truncated_normal``, one of standard
            deviation 1 / √inputs before it is cut at two of them. Biases are zero but for
            ``torch``.

    Shape:
        input: ``[N, in_channels]``; output: ``[N, out]``.

    Attributes:
        out_channels: as given by ``out``; methods ask every projector and predictor for it.
    """

    def __init__(
        self,
        in_channels: int,
        hidden: int = 2048,
        out: int = 128,
        layers: int = 2,
        norm: bool = True,
        bias: bool = True,
        out_bias: bool = True,
        out_norm: Optional[str] = None,
        init: str = "torch",
    ):
        super().__init__()
        check_sizes(in_channels=in_channels, hidden=hidden, out=out, layers=layers)
        if out_norm not in _OUT_NORMS:
            raise PasslError(f"out_norm is null, affine, scale or plain, not {out_norm!r}")
        if init not in _INITS:
            raise PasslError(f"init is one of {', '.join(_INITS)}, not {init!r}")
        self.out_channels = out
        widths = [in_channels, *[hidden] * (layers - 1), out]
        biases = [*[bias] * (layers - 1), out_bias]
        self.fcs = nn.LayerList(
            [
                Linear(before, after, bias_attr=None if has_bias else False)
                for before, after, has_bias in zip(widths, widths[1:], biases)
            ]
        )
        norms = [BatchNorm1D(hidden) for _ in range(layers - 1)] if norm else []
        if out_norm == "scale":
            norms.append(_ScaledNorm(out))
        elif out_norm is not None:
            norms.append(BatchNorm1D(out, affine=out_norm == "affine"))
        self.norms = nn.LayerList(norms)
        self._hidden_norms, self._out_norm = norm, out_norm is not None
        for fc in self.fcs:
            self._start(fc, init)

    def _start(self, fc: Linear, init: str) -> None:
        inputs = fc.weight.shape[0]
        if init == "torch":
            bound = 1.0 / math.sqrt(inputs)
            uniform_(fc.weight, bound)
            if fc.bias is not None:
                uniform_(fc.bias, bound)
            return
        if init == "normal":
            normal_(fc.weight, std=0.01)
        else:
            truncated_normal_(fc.weight, std=1.0 / math.sqrt(inputs))
        if fc.bias is not None:
            zeros_(fc.bias)

    def forward(self, x):
        for number, fc in enumerate(self.fcs[:-1]):
            x = fc(x)
            if self._hidden_norms:
                x = self.norms[number](x)
            x = F.relu(x)
        x = self.fcs[-1](x)
        return self.norms[-1](x) if self._out_norm else x
