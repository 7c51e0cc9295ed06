"""ResNet.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv 1512.03385, with the
stride in the 3×3 convolution of a bottleneck instead of in its first 1×1 ("v1.5", as torchvision,
MoCo, SimCLR and BYOL have it).

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, with an
index for the stage.
"""

from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, List, Mapping, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    BatchNorm2D,
    Conv2D,
    check_input,
    check_sizes,
    lecun_normal_,
    normal_,
    zeros_,
)
from passl.modeling.layers.depths import staged_depths
from passl.utils.errors import PasslError

_INITS = ("kaiming", "lecun_normal")


def same_padding(size: int, kernel_size: int, stride: int) -> Tuple[int, int]:
    """Returns what TensorFlow's "SAME" puts before and behind an axis of so many pixels.

    Of an odd number the larger part comes behind: 2 and 3 for the 7×7 convolution of stride 2 on
    224 pixels, where torch's ResNets have 3 and 3.
    """
    steps = -(-size // stride)
    total = max((steps - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def _padded_same(x: paddle.Tensor, kernel_size: int, stride: int) -> paddle.Tensor:
    (top, bottom), (left, right) = (same_padding(n, kernel_size, stride) for n in x.shape[2:])
    if not any((top, bottom, left, right)):
        return x
    return F.pad(x, [left, right, top, bottom])


class ConvNorm(nn.Layer):
    """A convolution without bias and its batch normalisation.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        padding: ``torch`` pads half a kernel all round, ``same`` as ``same_padding`` says.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: str
    ):
        super().__init__()
        self._same = padding == "same" and stride > 1  # else both are one
        self._window = kernel_size, stride
        self.conv = Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if self._same else kernel_size // 2,
            bias_attr=False,
        )
        # 0.9 of the old statistics stay: torch's momentum of 0.1.
        self.norm = BatchNorm2D(out_channels, momentum=0.9, epsilon=1e-5)

    def forward(self, x):
        if self._same:
            x = _padded_same(x, *self._window)
        return self.norm(self.conv(x))


class ResidualBlock(nn.Layer):
    """Two 3×3 convolutions, or a 1×1, a 3×3 and a 1×1 ("bottleneck"), to which the input is added.

    The first 3×3 has the stride. Where the shape changes the input goes through a 1×1 convolution.
    Activations are not computed twice here: the running statistics would be updated twice as well.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, out_channels, H / stride, W / stride]``.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, bottleneck: bool,
        padding: str,
    ):  # fmt: skip
        super().__init__()
        if bottleneck:
            steps = [(width, 1, 1), (width, 3, stride), (out_channels, 1, 1)]
        else:
            steps = [(width, 3, stride), (out_channels, 3, 1)]
        self.layers = nn.LayerList()
        channels = in_channels
        for following, kernel_size, its_stride in steps:
            self.layers.append(ConvNorm(channels, following, kernel_size, its_stride, padding))
            channels = following
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = ConvNorm(in_channels, out_channels, 1, stride, padding)

    def forward(self, x):
        branch = x
        for layer in self.layers[:-1]:
            branch = F.relu(layer(branch))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.layers[-1](branch) + shortcut)


def _torch_names(backbone: str = "", here: str = "backbone", head: str = "fc") -> Dict[str, str]:
    """Layer here -> layer in torchvision, and in all who took its names.

    Args:
        backbone: what stands there before the names of its layers.
        here: the same of ours.
        head: the layer of the classes there; empty for none.
    """
    names = {}
    for kind, there in (("conv", "conv"), ("norm", "bn")):
        names[f"{here}.stem.{kind}"] = f"{backbone}{there}1"
        for k in range(3):
            names[f"{here}.stages.{{i}}.{{j}}.layers.{k}.{kind}"] = (
                f"{backbone}layer{{i+1}}.{{j}}.{there}{k + 1}"
            )
    for k, kind in enumerate(("conv", "norm")):
        names[f"{here}.stages.{{i}}.{{j}}.shortcut.{kind}"] = (
            f"{backbone}layer{{i+1}}.{{j}}.downsample.{k}"
        )
    if head:
        names["head.fc"] = head
    return names


# MoCo's own files hold network and twin, with the projector in the place of the classes, and the
# queue, a column a key.
_MOCO = {
    **_torch_names("encoder_q.", head=""),
    **_torch_names("encoder_k.", "twin.backbone", head=""),
    "queue.keys[:, :]": "queue[:, :]|transposed",
    "queue.pointer[:]": "queue_ptr[:]",
}
_MOCO_V1, _MOCO_V2 = (
    {
        **_MOCO,
        **{
            f"{twin}projector.fcs.{k}": f"{encoder}.fc{layer}"
            for twin, encoder in (("", "encoder_q"), ("twin.", "encoder_k"))
            for k, layer in enumerate(layers)
        },
    }
    for layers in (("",), (".0", ".2"))
)
_SIMSIAM_ASIDE = (
    *(f"encoder.fc.{k}.{leaf}" for k in (0, 3, 6) for leaf in ("weight", "bias")),
    *(
        f"encoder.fc.{k}.{leaf}"
        for k in (1, 4, 7)
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ),
    *(f"predictor.{k}.{leaf}" for k in (0, 3) for leaf in ("weight", "bias")),
    *(
        f"predictor.1.{leaf}"
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ),
)


def _paddleclas_names(blocks: Sequence[int]) -> Dict[str, str]:
    """Layer here -> layer in PaddleClas, which counts blocks through all stages."""
    names = {"head.fc": "fc"}
    for kind, there in (("conv", "conv"), ("norm", "bn")):
        names[f"backbone.stem.{kind}"] = f"stem.0.{there}"
        for i, depth in enumerate(blocks):
            for j in range(depth):
                here, block = f"backbone.stages.{i}.{j}", f"blocks.{sum(blocks[:i]) + j}"
                names[f"{here}.shortcut.{kind}"] = f"{block}.short.{there}"
                for k in range(3):
                    names[f"{here}.layers.{k}.{kind}"] = f"{block}.conv{k}.{there}"
    return names


@BACKBONES.register
class ResNet(nn.Layer):
    """ResNet without its classification layer.

    No parameter depends on the size of the images, so that one network serves any size.

    Args:
        in_channels: channels of the images.
        blocks: residual blocks of each stage.
        bottleneck: whether they are bottlenecks, whose output is four times as wide as they are.
        width: C of the stem and width of the first stage's blocks; each further stage has twice
            that of the one before it. SimCLR's "2x" has 128, "4x" 256.
        stem: ``imagenet`` for a 7×7 convolution of stride 2 and a max pooling, ``cifar`` for a 3×3
            of stride 1 without (SimCLR, arXiv 2002.05709, appendix B.9).
        padding: ``torch``, or ``same`` for TensorFlow's, which BYOL's weights need.
        pool_padding: the same of the max pooling: SimCLR's weights need ``same`` there, and
            ``torch`` in the convolutions. None: as ``padding``.
        zero_init_last: whether the last scale of each block begins at 0, so that the block does
            nothing at first (Goyal et al., arXiv 1706.02677, section 5.1).
        init: of the convolutions: ``kaiming``, a normal by the fan out (He et al., arXiv
            1502.01852), or ``lecun_normal``, a truncated one by the fan in (SimCLR, BYOL).

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C]`` with the last stage's C.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: an argument out of bounds.
    """

    released_names: Mapping[str, Any] = {
        "torchvision": ("torch", _torch_names()),
        "timm": ("torch", _torch_names()),
        "paddle_vision": ("paddle", _torch_names()),
        "moco": ("torch", _MOCO_V2),
        "moco_v1": ("torch", _MOCO_V1),
        "simsiam": ("torch", _torch_names("encoder.", head=""), {"no_weights": _SIMSIAM_ASIDE}),
        "passl_v1": ("paddle", _torch_names("backbone.", head="head.fc")),
        "passl_v1_moco": ("paddle", _torch_names("encoder_q.0.", head="")),
        "passl_v1_simclr": ("paddle", _torch_names("encoder.0.", head="")),
        "passl_v1_byol": ("paddle", _torch_names("towers.0.0.", head="")),
    }

    def __init__(
        self,
        in_channels: int = 3,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
        width: int = 64,
        stem: str = "imagenet",
        padding: str = "torch",
        pool_padding: Any = None,
        zero_init_last: bool = False,
        init: str = "kaiming",
    ):
        super().__init__()
        pool_padding = padding if pool_padding is None else pool_padding
        for name, value, known in (
            ("stem", stem, ("imagenet", "cifar")),
            ("padding", padding, ("torch", "same")),
            ("pool_padding", pool_padding, ("torch", "same")),
            ("init", init, _INITS),
        ):
            if value not in known:
                raise PasslError(f"{name} is {' or '.join(known)}, not {value!r}")
        if not blocks:
            raise PasslError("blocks is a list of the blocks of each stage, at least one")
        check_sizes(in_channels=in_channels, blocks=list(blocks), width=width)
        self.in_channels = in_channels
        self.released_names = {
            **type(self).released_names,
            "paddleclas": ("paddle", _paddleclas_names(blocks)),
        }
        expansion = 4 if bottleneck else 1
        self.stage_channels: List[int] = [width * 2**i * expansion for i in range(len(blocks))]
        first = 1 if stem == "cifar" else 4
        self.stage_strides: List[int] = [first * 2**i for i in range(len(blocks))]
        self.num_features = self.stage_channels[-1]
        self._pools, self._same_pool = stem == "imagenet", pool_padding == "same"
        kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.stem = ConvNorm(in_channels, width, kernel_size, stride, padding)
        self.stages = nn.LayerList()
        channels = width
        for i, depth in enumerate(blocks):
            stage = nn.LayerList()
            for j in range(depth):
                stage.append(
                    ResidualBlock(
                        channels,
                        width * 2**i,
                        self.stage_channels[i],
                        2 if i and not j else 1,
                        bottleneck,
                        padding,
                    )
                )
                channels = self.stage_channels[i]
            self.stages.append(stage)
        self._initialize(init, zero_init_last)

    def _initialize(self, init: str, zero_init_last: bool) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                out, channels, height, width = layer.weight.shape
                if init == "kaiming":
                    normal_(layer.weight, std=math.sqrt(2.0 / (out * height * width)))
                else:
                    lecun_normal_(layer.weight, fan_in=channels * height * width)
            elif isinstance(layer, ResidualBlock) and zero_init_last:
                zeros_(layer.layers[-1].norm.weight)

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The stem is the first layer, each block one.
        """
        return staged_depths(self, "stem.", "stages")

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns what is worth a look: the filters of the stem, ``[C, in_channels, k, k]``."""
        return {"stem": ("stem", self.stem.conv.weight.numpy())}

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction."""
        check_input(x, self.in_channels)
        x = F.relu(self.stem(x))
        if self._pools:
            if self._same_pool:  # of zeros: nothing is below them here
                x = F.max_pool2d(_padded_same(x, 3, 2), 3, 2)
            else:
                x = F.max_pool2d(x, 3, 2, 1)
        outputs = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x):
        """Returns the map of the last stage, before pooling, ``[N, C, H, W]``."""
        return self.forward_stages(x)[-1]

    def forward(self, x):
        return self.forward_features(x).mean(axis=[2, 3])


for _depth, _blocks, _bottleneck in (
    (18, (2, 2, 2, 2), False),
    (34, (3, 4, 6, 3), False),
    (50, (3, 4, 6, 3), True),
    (101, (3, 4, 23, 3), True),
    (152, (3, 8, 36, 3), True),
):
    BACKBONES.register_variant(f"resnet{_depth}", ResNet, blocks=_blocks, bottleneck=_bottleneck)
for _times in (2, 4):
    BACKBONES.register_variant(
        f"resnet50_{_times}x", ResNet, blocks=(3, 4, 6, 3), width=64 * _times
    )
