"""ResNet.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv 1512.03385, in the form
that is called v1.5: of a bottleneck the 3×3 convolution has the stride, not the first 1×1 one
(facebook's fb.resnet.torch, torchvision's models/resnet.py). SimCLR, MoCo and BYOL take it so.

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, with
an index for the stage.
"""

from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, List, Optional, Sequence, Tuple

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
    truncated_normal_,
    zeros_,
)
from passl.utils.errors import PasslError

# Depth -> blocks of each stage, and whether they are bottlenecks (table 1 of the paper).
_DEPTHS: Dict[int, Tuple[Sequence[int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_EXPANSION = 4  # a bottleneck's output, in units of its width

_STEMS = ("imagenet", "cifar")
_PADDINGS = ("torch", "same")
_POOLS = (*_PADDINGS, "none")
_INITS = ("kaiming", "lecun_normal", "truncated_normal")


class SameConv2D(Conv2D):
    """A strided convolution without bias, padded as TensorFlow's ``SAME`` pads.

    By as much as makes the output ``⌈H / stride⌉``; half of it before and half behind, and where it
    is odd, one more behind: at even sizes a 7×7 convolution of stride 2 has 2 rows of zeros above
    and 3 below, and a 3×3 one none above and 1 below.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def forward(self, x):
        return F.conv2d(x, self.weight, None, self._pairs[0], "SAME")


def _conv(in_channels: int, channels: int, kernel: int, stride: int, padding: str) -> Conv2D:
    # Both ways are one where the stride is 1, because kernels are odd.
    kind = SameConv2D if padding == "same" and stride > 1 else Conv2D
    return kind(in_channels, channels, kernel, stride, padding=kernel // 2, bias_attr=False)


class ConvNorm(nn.Layer):
    """A convolution without bias, then batch normalisation.

    Args:
        in_channels, channels: C before and after.
        kernel: height and width, odd.
        stride: of the convolution.
        padding: ``torch``, kernel // 2 on all sides, or ``same``, see ``SameConv2D``.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, padding: str):
        super().__init__()
        self.conv = _conv(in_channels, channels, kernel, stride, padding)
        # 0.9 of the old statistics stay: torch's momentum of 0.1.
        self.norm = BatchNorm2D(channels, momentum=0.9, epsilon=1e-5)

    def forward(self, x):
        return self.norm(self.conv(x))


class ResidualBlock(nn.Layer):
    """Convolutions with batch norms, to which the input is added (figures 2 and 5 of the paper).

    Two 3×3 convolutions, or as a bottleneck a 1×1, a 3×3 and a 1×1 one, which widens. The input is
    added as it is (identity shortcut), or where the sizes differ, after a 1×1 convolution with a
    batch norm (projection shortcut, option B).

    Its activations are not computed twice: the running statistics would be updated twice as well.

    Args:
        in_channels: C of the input.
        width: C inside; of a bottleneck's output a quarter.
        stride: of the first 3×3 convolution, and of the shortcut.
        bottleneck: which of the two it is.
        padding: see ``ConvNorm``.

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, C, ⌈H / stride⌉, ⌈W / stride⌉]``.

    Attributes:
        out_channels: C of the output.
    """

    def __init__(self, in_channels: int, width: int, stride: int, bottleneck: bool, padding: str):
        super().__init__()
        self.out_channels = width * (_EXPANSION if bottleneck else 1)
        if bottleneck:
            kernels, strides = (1, 3, 1), (1, stride, 1)
            channels = [in_channels, width, width, self.out_channels]
        else:
            kernels, strides, channels = (3, 3), (stride, 1), [in_channels, width, width]
        self.convs = nn.LayerList(
            [
                _conv(before, after, kernel, step, padding)
                for before, after, kernel, step in zip(channels, channels[1:], kernels, strides)
            ]
        )
        self.norms = nn.LayerList(
            [BatchNorm2D(after, momentum=0.9, epsilon=1e-5) for after in channels[1:]]
        )
        self.shortcut = None
        if stride > 1 or in_channels != self.out_channels:
            self.shortcut = ConvNorm(in_channels, self.out_channels, 1, stride, padding)

    def forward(self, x):
        branch = self.norms[0](self.convs[0](x))
        for conv, norm in zip(self.convs[1:], self.norms[1:]):
            branch = norm(conv(F.relu(branch)))
        return F.relu(branch + (x if self.shortcut is None else self.shortcut(x)))


def _named(
    there: str = "",
    here: str = "backbone.",
    stem: Tuple[str, str] = ("conv1", "bn1"),
    head: Optional[str] = "fc",
) -> Dict[str, str]:
    """Returns layer here -> layer there, as torchvision calls them behind ``there``.

    Args:
        there, here: what stands before all names of the backbone.
        stem: its convolution and its norm.
        head: the whole name of the classifier; None for files without one.
    """
    block, other = f"{here}stages.{{i}}.{{j}}", f"{there}layer{{i+1}}.{{j}}"
    names = {
        f"{here}stem.conv": f"{there}{stem[0]}",
        f"{here}stem.norm": f"{there}{stem[1]}",
        f"{block}.convs.{{k}}": f"{other}.conv{{k+1}}",
        f"{block}.norms.{{k}}": f"{other}.bn{{k+1}}",
        f"{block}.shortcut.conv": f"{other}.downsample.0",
        f"{block}.shortcut.norm": f"{other}.downsample.1",
    }
    return {**names, "head.fc": head} if head else names


def _counted(blocks: Sequence[int]) -> Dict[str, str]:
    """Returns layer here -> layer in PaddleClas, which counts the blocks through all stages."""
    names = {
        "backbone.stem.conv": "stem.0.conv",
        "backbone.stem.norm": "stem.0.bn",
        "head.fc": "fc",
    }
    # The last stage first: of the lines that fit, the first counts.
    for stage in reversed(range(len(blocks))):
        first = sum(blocks[:stage])
        ours, theirs = f"backbone.stages.{stage}", f"blocks.{{j+{first}}}"
        names[f"{ours}.{{j}}.convs.{{k}}"] = f"{theirs}.conv{{k}}.conv"
        names[f"{ours}.{{j}}.norms.{{k}}"] = f"{theirs}.conv{{k}}.bn"
        names[f"{ours}.0.shortcut.conv"] = f"blocks.{first}.short.conv"
        names[f"{ours}.0.shortcut.norm"] = f"blocks.{first}.short.bn"
    return names


def _contrasted(query: str, key: str, first: str, last: Optional[str]) -> Dict[str, str]:
    """Returns the names of MoCo's files: network, momentum encoder, queue.

    Args:
        query, key: how the names of the two backbones begin; what comes before the projectors'
            names is the part before the first dot.
        first, last: the linear maps of the projectors; None where there is one.
    """
    names = {**_named(query, head=None), **_named(key, "twin.backbone.", head=None)}
    for ours, theirs in (("", query), ("twin.", key)):
        encoder = theirs.partition(".")[0]
        names[f"{ours}projector.fcs.0"] = f"{encoder}.{first}"
        if last:
            names[f"{ours}projector.fcs.1"] = f"{encoder}.{last}"
    # Keys stand in columns there.
    names["queue.keys[:, :]"] = "queue[:, :]|transposed"
    names["queue.pointer[1]"] = "queue_ptr[1]"
    return names


_RELEASED_NAMES: Dict[str, tuple] = {
    # torchvision/models/resnet.py; the linear classifiers of MoCo and SimSiam, and TorchScript's
    # and others' backbones, have these names too
    "torchvision": ("torch", _named()),
    # timm/models/resnet.py
    "timm": ("torch", _named()),
    # paddle/vision/models/resnet.py
    "paddle.vision": ("paddle", _named()),
    # PASSL 1.0 and 1.1, passl/modeling/architectures/clas.py and passl/modeling/heads/clas_head.py
    "passl_v1": ("paddle", _named("backbone.", head="head.fc_cls")),
    # PaddleClas, ppcls/arch/backbone/legendary_models/resnet.py. Its networks of 18 and 34 layers
    # are others: their first block has a projection shortcut.
    **{
        f"paddleclas_{depth}": ("paddle", _counted(blocks))
        for depth, (blocks, bottleneck) in _DEPTHS.items()
        if bottleneck
    },
    # mmpretrain/models/backbones/resnet.py
    "mmpretrain": ("torch", _named("backbone.", head="head.fc")),
    # facebookresearch/moco, moco/builder.py; versions 1 and 2
    "moco_v1": ("torch", _contrasted("encoder_q.", "encoder_k.", "fc", None)),
    "moco_v2": ("torch", _contrasted("encoder_q.", "encoder_k.", "fc.0", "fc.2")),
    # facebookresearch/simsiam, simsiam/builder.py
    "simsiam": (
        "torch",
        _named("encoder.", head=None),
        {"no_weights": ("encoder.fc.*", "predictor.*")},
    ),
    # PASSL 1.0 and 1.1, passl/modeling/architectures/{moco,simclr,BYOL}.py: a part of the network
    # has a second name, `backbone`, under which the file holds it once more.
    "passl_v1_moco": (
        "paddle",
        _contrasted("encoder_q.0.", "encoder_k.0.", "1.fc", None),
        {"no_weights": ("backbone.*",)},
    ),
    "passl_v1_moco_v2": (
        "paddle",
        _contrasted("encoder_q.0.", "encoder_k.0.", "1.mlp.0", "1.mlp.2"),
        {"no_weights": ("backbone.*",)},
    ),
    "passl_v1_simclr": (
        "paddle",
        _named("encoder.0.", head=None),
        {"no_weights": ("backbone.*", "encoder.1.*")},
    ),
    "passl_v1_byol": (
        "paddle",
        _named("towers.0.0.", head=None),
        {
            "no_weights": (
                *("backbone.*", "towers.0.1.*", "towers.1.*", "predictor.*", "classifier.*"),
            )
        },
    ),
}


@BACKBONES.register
class ResNet(nn.Layer):
    """ResNet (v1.5) without its classification layer.

    No parameter depends on the size of the images, so that one network serves images of any size.

    Args:
        depth: 18, 34, 50, 101 or 152, a network of the paper's; 50 unless ``blocks`` are given.
        blocks: instead of ``depth``, the number of blocks of each stage, of any number of stages.
        bottleneck: with ``blocks``, whether they are bottlenecks; by default they are not.
        width: C of the first stage's blocks inside, and of the stem; each stage has twice that of
            the one before.
        width_multiplier: what all widths are multiplied by: SimCLR's 1×, 2× and 4×.
        in_channels: channels of the images.
        stem: ``imagenet``, a 7×7 convolution of stride 2 and a 3×3 max pooling of stride 2, or
            ``cifar``, a 3×3 convolution of stride 1 and no pooling, for images of 32 pixels.
        padding: of strided convolutions: ``torch``, equal on both sides, or ``same``, TensorFlow's
            (see ``SameConv2D``), which DeepMind's BYOL has.
        max_pool: padding of the max pooling, where it is not that of the convolutions (Google's
            SimCLR: ``padding: torch, max_pool: same``); ``none`` leaves the pooling out.
        zero_init_last: whether the scale of the last batch norm of each block starts at 0, so that
            a block starts as its shortcut (Goyal et al., arXiv 1706.02677, section 5.1).
        init: of the convolutions: ``kaiming``, He et al.'s normal initialisation by the fan out
            (torchvision, MoCo); ``lecun_normal``, a truncated normal of variance 1 / fan in
            (SimCLR); or ``truncated_normal``, a normal of standard deviation 1 / √fan in, cut at
            two of them (BYOL).

    Shape:
        input: ``[N, in_channels, H, W]``; output: ``[N, num_features]``.

    Attributes:
        num_features: C of the last stage.
        stage_channels: C of each stage.
        stage_strides: pixels of the image that one step on a stage's map is.

    Raises:
        PasslError: arguments that do not go together, or sizes that cannot be.
    """

    released_names = _RELEASED_NAMES

    def __init__(
        self,
        depth: Optional[int] = None,
        blocks: Optional[Sequence[int]] = None,
        bottleneck: Optional[bool] = None,
        width: int = 64,
        width_multiplier: int = 1,
        in_channels: int = 3,
        stem: str = "imagenet",
        padding: str = "torch",
        max_pool: Optional[str] = None,
        zero_init_last: bool = False,
        init: str = "kaiming",
    ):
        super().__init__()
        blocks, bottleneck = _chosen(depth, blocks, bottleneck)
        check_sizes(width=width, width_multiplier=width_multiplier, in_channels=in_channels)
        for name, value, known in (
            ("stem", stem, _STEMS),
            ("padding", padding, _PADDINGS),
            ("max_pool", max_pool or "none", _POOLS),
            ("init", init, _INITS),
        ):
            if value not in known:
                raise PasslError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if stem == "cifar" and max_pool not in (None, "none"):
            raise PasslError(f"stem 'cifar' has no max pooling; leave out max_pool={max_pool!r}")
        self.in_channels = in_channels
        channels = width * width_multiplier
        self._pool = None
        if stem == "cifar":
            self.stem, stride = ConvNorm(in_channels, channels, 3, 1, padding), 1
        else:
            self.stem, stride = ConvNorm(in_channels, channels, 7, 2, padding), 2
            if max_pool != "none":
                self._pool, stride = "SAME" if (max_pool or padding) == "same" else 1, 4
        self.stage_strides: List[int] = [stride * 2**i for i in range(len(blocks))]
        self.stage_channels: List[int] = []
        self.stages = nn.LayerList()
        for i, count in enumerate(blocks):
            stage = nn.LayerList()
            for j in range(count):
                step = 2 if i > 0 and j == 0 else 1
                inside = width * width_multiplier * 2**i
                stage.append(ResidualBlock(channels, inside, step, bottleneck, padding))
                channels = stage[-1].out_channels
            self.stages.append(stage)
            self.stage_channels.append(channels)
        self.num_features = channels
        self._initialize(init, zero_init_last)

    def _initialize(self, init: str, zero_init_last: bool) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                out, inputs, height, width = layer.weight.shape
                fan_in, fan_out = inputs * height * width, out * height * width
                if init == "kaiming":
                    normal_(layer.weight, std=math.sqrt(2.0 / fan_out))
                elif init == "lecun_normal":
                    lecun_normal_(layer.weight, fan_in=fan_in)
                else:
                    truncated_normal_(layer.weight, std=math.sqrt(1.0 / fan_in))
            elif zero_init_last and isinstance(layer, ResidualBlock):
                zeros_(layer.norms[-1].weight)

    @property
    def parameter_depths(self) -> Dict[str, int]:
        """How deep each parameter lies, from 0, for layer-wise learning rates.

        The stem is the first layer, each block one.
        """
        places, blocks = {"stem.": 0}, 0
        for i, stage in enumerate(self.stages):
            for j, _ in enumerate(stage):
                blocks += 1
                places[f"stages.{i}.{j}."] = blocks
        return {
            name: next(depth for place, depth in places.items() if name.startswith(place))
            for name, _ in self.named_parameters()
        }

    @property
    def no_weight_decay(self) -> FrozenSet[str]:
        """Parameters that never decay besides biases and norms: none."""
        return frozenset()

    def pictured_weights(self) -> Dict[str, Tuple[str, np.ndarray]]:
        """Returns the filters of the stem, ``[C, in_channels, 7 or 3, 7 or 3]``, by name."""
        return {"stem": ("stem", self.stem.conv.weight.numpy())}

    def forward_stages(self, x) -> List[paddle.Tensor]:
        """Returns the feature map of every stage, ``[N, C_i, H_i, W_i]``, for dense prediction."""
        check_input(x, self.in_channels)
        x = F.relu(self.stem(x))
        if self._pool is not None:
            x = F.max_pool2d(x, 3, stride=2, padding=self._pool)
        outputs = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            outputs.append(x)
        return outputs

    def forward_features(self, x):
        """Returns the last stage's feature map before pooling, ``[N, C, H, W]``."""
        return self.forward_stages(x)[-1]

    def forward(self, x):
        return self.forward_features(x).mean(axis=[2, 3])


def _chosen(
    depth: Optional[int], blocks: Optional[Sequence[int]], bottleneck: Optional[bool]
) -> Tuple[Sequence[int], bool]:
    """Returns the blocks of each stage, and whether they are bottlenecks."""
    if blocks is None:
        depth = 50 if depth is None else depth
        if depth not in _DEPTHS:
            known = ", ".join(map(str, _DEPTHS))
            raise PasslError(f"depth is one of {known}, not {depth}; give other networks' blocks")
        if bottleneck is not None:
            raise PasslError(f"depth {depth} says by itself what bottleneck says; give one of them")
        return _DEPTHS[depth]
    if depth is not None:
        raise PasslError(f"give depth or blocks, not both ({depth} and {list(blocks)})")
    if not blocks:
        raise PasslError("blocks has a number for each stage, and there is none; give at least one")
    check_sizes(blocks=blocks)
    return blocks, bool(bottleneck)


# The paper's, and SimCLR's wider ones: arXiv 2002.05709, section 2.2 and appendix B.5.
_VARIANTS: Dict[str, Dict[str, Any]] = {
    **{f"resnet{depth}": {"depth": depth} for depth in _DEPTHS},
    **{f"resnet50_{times}x": {"depth": 50, "width_multiplier": times} for times in (2, 4)},
}
for _name, _arguments in _VARIANTS.items():
    BACKBONES.register_variant(_name, ResNet, **_arguments)
