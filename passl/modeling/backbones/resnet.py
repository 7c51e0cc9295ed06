"""ResNet.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", arXiv 1512.03385, with the
stride in the 3×3 convolution of a bottleneck instead of in its first 1×1 ("v1.5", as torchvision,
MoCo, SimCLR and BYOL have it).

Legend for shapes: N images, H and W the height and width of a feature map, C its channels, with an
index for the stage.
"""

from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from passl.modeling.backbones.registry import BACKBONES
from passl.modeling.layers import (
    ConvNorm,
    check_input,
    check_sizes,
    lecun_normal_,
    normal_,
    truncated_normal_,
    zeros_,
)
from passl.modeling.layers.depths import staged_depths
from passl.utils.errors import PasslError

_EXPANSION = 4  # what a bottleneck gives is so many times as wide as it is inside

# Depth -> blocks of each stage, and whether they are bottlenecks: table 1 of the paper.
_DEPTHS: Dict[int, Tuple[Sequence[int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

_STEMS = ("imagenet", "cifar")
_PADDINGS = ("torch", "same")
_POOL_PADDINGS = (*_PADDINGS, "none")
_INITS = ("kaiming", "lecun_normal", "truncated_normal")


class ResidualBlock(nn.Layer):
    """Two 3×3 convolutions, or a 1×1, a 3×3 and a 1×1 ("bottleneck"), to which the input is added.

    The first 3×3 has the stride. Where the shape changes, the input goes through a 1×1 convolution
    (option B of section 4.1 of the paper). Activations are not computed twice here: the running
    statistics would be updated twice as well.

    Shape:
        input: ``[N, in_channels, H, W]``;
        output: ``[N, out_channels, ⌈H / stride⌉, ⌈W / stride⌉]``.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int,
        bottleneck: bool,
        padding: str,
    ):
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
    block, other = f"{here}.stages.{{i}}.{{j}}", f"{backbone}layer{{i+1}}.{{j}}"
    names = {
        f"{here}.stem.conv": f"{backbone}conv1",
        f"{here}.stem.norm": f"{backbone}bn1",
        f"{block}.layers.{{k}}.conv": f"{other}.conv{{k+1}}",
        f"{block}.layers.{{k}}.norm": f"{other}.bn{{k+1}}",
        f"{block}.shortcut.conv": f"{other}.downsample.0",
        f"{block}.shortcut.norm": f"{other}.downsample.1",
    }
    return {**names, "head.fc": head} if head else names


def _paddleclas_names(blocks: Sequence[int]) -> Dict[str, str]:
    """Layer here -> layer in PaddleClas, which counts blocks through all stages."""
    names = {
        "backbone.stem.conv": "stem.0.conv",
        "backbone.stem.norm": "stem.0.bn",
        "head.fc": "fc",
    }
    for i in reversed(range(len(blocks))):  # the first line that fits counts
        here, first = f"backbone.stages.{i}", sum(blocks[:i])
        for kind, there in (("conv", "conv"), ("norm", "bn")):
            names[f"{here}.{{j}}.layers.{{k}}.{kind}"] = f"blocks.{{j+{first}}}.conv{{k}}.{there}"
            names[f"{here}.0.shortcut.{kind}"] = f"blocks.{first}.short.{there}"
    return names


def _moco_names(query: str, key: str, projector: Sequence[str]) -> Dict[str, str]:
    """Layer here -> layer in files that hold network, twin, projectors and queue.

    Args:
        query, key: what stands before the layers of the two backbones.
        projector: the linear maps of a projector, behind the first part of that.
    """
    names = {
        **_torch_names(query, head=""),
        **_torch_names(key, "twin.backbone", head=""),
        "queue.keys[:, :]": "queue[:, :]|transposed",  # a column a key
        "queue.pointer[1]": "queue_ptr[1]",
    }
    for twin, there in (("", query), ("twin.", key)):
        for k, layer in enumerate(projector):
            names[f"{twin}projector.fcs.{k}"] = f"{there.partition('.')[0]}.{layer}"
    return names


# In PASSL 1.0 and 1.1 a part of the network had a second name, under which it is in the file again.
_AGAIN = {"no_weights": ("backbone.*",)}


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
        stem: ``imagenet`` for a 7×7 convolution of stride 2 and a 3×3 max pooling of stride 2,
            ``cifar`` for a 3×3 convolution of stride 1 without (SimCLR, arXiv 2002.05709, appendix
            B.9).
        padding: ``torch``, or ``same`` for TensorFlow's, which BYOL's weights need.
        pool_padding: the same of the max pooling: SimCLR's weights need ``same`` there, and
            ``torch`` in the convolutions; ``none`` leaves the pooling out. By default as
            ``padding``.
        zero_init_last: whether the last scale of each block begins at 0, so that the block does
            nothing at first (Goyal et al., arXiv 1706.02677, section 5.1).
        init: of the convolutions: ``kaiming``, a normal by the fan out (He et al., arXiv
            1502.01852); ``lecun_normal``, a truncated one of variance 1 / fan in (SimCLR); or
            ``truncated_normal``, one of standard deviation 1 / √fan in before it is cut at two of
            them (BYOL).

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
        # torchvision/models/resnet.py; also the linear classifiers of MoCo and SimSiam
        "torchvision": ("torch", _torch_names()),
        "timm": ("torch", _torch_names()),
        "paddle_vision": ("paddle", _torch_names()),  # paddle/vision/models/resnet.py
        # PASSL 1.0 and 1.1, passl/modeling/{architectures/clas,heads/clas_head}.py
        "passl_v1": ("paddle", _torch_names("backbone.", head="head.fc_cls")),
        # ppcls/arch/backbone/legendary_models/resnet.py; its networks of 18 and 34 layers are
        # others, where the first block has a convolution in its shortcut.
        **{
            f"paddleclas_{depth}": ("paddle", _paddleclas_names(blocks))
            for depth, (blocks, bottleneck) in _DEPTHS.items()
            if bottleneck
        },
        # mmpretrain/models/backbones/resnet.py
        "mmpretrain": ("torch", _torch_names("backbone.", head="head.fc")),
        # facebookresearch/moco, moco/builder.py
        "moco": ("torch", _moco_names("encoder_q.", "encoder_k.", ("fc.0", "fc.2"))),
        "moco_v1": ("torch", _moco_names("encoder_q.", "encoder_k.", ("fc",))),
        # facebookresearch/simsiam, simsiam/builder.py
        "simsiam": (
            "torch",
            _torch_names("encoder.", head=""),
            {"no_weights": ("encoder.fc.*", "predictor.*")},
        ),
        # PASSL 1.0 and 1.1, passl/modeling/architectures/{moco,simclr,BYOL}.py
        "passl_v1_moco": (
            "paddle",
            _moco_names("encoder_q.0.", "encoder_k.0.", ("1.mlp.0", "1.mlp.2")),
            _AGAIN,
        ),
        "passl_v1_moco_v1": (
            "paddle",
            _moco_names("encoder_q.0.", "encoder_k.0.", ("1.fc",)),
            _AGAIN,
        ),
        "passl_v1_simclr": (
            "paddle",
            _torch_names("encoder.0.", head=""),
            {"no_weights": ("backbone.*", "encoder.1.*")},
        ),
        "passl_v1_byol": (
            "paddle",
            _torch_names("towers.0.0.", head=""),
            {
                "no_weights": (
                    *("backbone.*", "towers.0.1.*", "towers.1.*", "predictor.*", "classifier.*"),
                )
            },
        ),
    }

    def __init__(
        self,
        in_channels: int = 3,
        blocks: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
        width: int = 64,
        stem: str = "imagenet",
        padding: str = "torch",
        pool_padding: Optional[str] = None,
        zero_init_last: bool = False,
        init: str = "kaiming",
    ):
        super().__init__()
        if stem == "cifar" and pool_padding not in (None, "none"):
            raise PasslError(
                f"stem cifar has no max pooling; leave out pool_padding={pool_padding}"
            )
        pool_padding = padding if pool_padding is None else pool_padding
        for name, value, known in (
            ("stem", stem, _STEMS),
            ("padding", padding, _PADDINGS),
            ("pool_padding", pool_padding, _POOL_PADDINGS),
            ("init", init, _INITS),
        ):
            if value not in known:
                raise PasslError(f"{name} is {' or '.join(known)}, not {value!r}")
        if not blocks:
            raise PasslError("blocks is a list of the blocks of each stage, at least one")
        check_sizes(in_channels=in_channels, blocks=list(blocks), width=width)
        self.in_channels = in_channels
        expansion = _EXPANSION if bottleneck else 1
        self.stage_channels: List[int] = [width * 2**i * expansion for i in range(len(blocks))]
        self.num_features = self.stage_channels[-1]
        kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.stem = ConvNorm(in_channels, width, kernel_size, stride, padding)
        self._pool: Any = None  # or the padding of the pooling, as Paddle has it
        if stem == "imagenet" and pool_padding != "none":
            self._pool = "SAME" if pool_padding == "same" else 1
            stride *= 2
        self.stage_strides: List[int] = [stride * 2**i for i in range(len(blocks))]
        self.stages = nn.LayerList()
        channels = width
        for i, (depth, following) in enumerate(zip(blocks, self.stage_channels)):
            stage = nn.LayerList()
            for j in range(depth):
                step = 2 if i and not j else 1
                block = ResidualBlock(channels, width * 2**i, following, step, bottleneck, padding)
                stage.append(block)
                channels = following
            self.stages.append(stage)
        self._initialize(init, zero_init_last)

    def _initialize(self, init: str, zero_init_last: bool) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                out, channels, height, width = layer.weight.shape
                fan_in, fan_out = channels * height * width, out * height * width
                if init == "kaiming":
                    normal_(layer.weight, std=math.sqrt(2.0 / fan_out))
                elif init == "lecun_normal":
                    lecun_normal_(layer.weight, fan_in=fan_in)
                else:
                    truncated_normal_(layer.weight, std=math.sqrt(1.0 / fan_in))
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
        if self._pool is not None:
            x = F.max_pool2d(x, 3, 2, self._pool)
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


for _depth, (_blocks, _bottleneck) in _DEPTHS.items():
    BACKBONES.register_variant(f"resnet{_depth}", ResNet, blocks=_blocks, bottleneck=_bottleneck)
for _times in (2, 4):
    BACKBONES.register_variant(
        f"resnet50_{_times}x", ResNet, blocks=_DEPTHS[50][0], width=64 * _times
    )
