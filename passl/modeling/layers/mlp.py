"""The two-layer perceptron of transformers and MLP models."""

from __future__ import annotations

from typing import Optional

from paddle import nn

from passl.modeling.layers.dense import GELU, Linear


class Mlp(nn.Layer):
    """Linear, GELU or another activation, linear, over the last axis.

    Args:
        in_features: size of the last axis of the input.
        hidden_features: width between the two linear maps.
        gelu_approximate: use the tanh approximation of GELU instead of the exact erf form.
        dropout: probability of zeroing an element after each linear map.
        out_features: size of the last axis of the output; that of the input by default.
        act: a layer that stands between the two maps in GELU's place.

    Shape:
        input: ``[..., in_features]``; output: ``[..., out_features]``.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        gelu_approximate: bool = False,
        dropout: float = 0.0,
        out_features: Optional[int] = None,
        act: Optional[nn.Layer] = None,
    ):
        super().__init__()
        self.fc1 = Linear(in_features, hidden_features)
        self.act = GELU(approximate=gelu_approximate) if act is None else act
        self.fc2 = Linear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
