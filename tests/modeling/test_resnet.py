import math

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.layers import sync_batch_norms
from passl.utils.errors import PasslError

SMALL = {"name": "ResNet", "blocks": [1, 2], "width": 4}


def small(seed=0, **changes):
    paddle.seed(seed)
    return build_backbone({**SMALL, **changes})


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# With 1,000 classes as torchvision/models/resnet.py records them (num_params).
@pytest.mark.parametrize("name, count, channels", [
    ("resnet18", 11689512, [64, 128, 256, 512]),
    ("resnet34", 21797672, [64, 128, 256, 512]),
    ("resnet50", 25557032, [256, 512, 1024, 2048]),
    ("resnet101", 44549160, [256, 512, 1024, 2048]),
    ("resnet152", 60192808, [256, 512, 1024, 2048]),
])  # fmt: skip
def test_parameter_counts(name, count, channels):
    with paddle.LazyGuard():  # the shapes are enough
        network = build_architecture(
            {"architecture": {"name": name}, "head": {"name": "ClassificationHead"}}
        )
    assert sum(math.prod(p.shape) for p in network.parameters()) == count
    assert network.backbone.stage_channels == channels
    assert network.backbone.stage_strides == [4, 8, 16, 32]
    assert network.backbone.num_features == channels[-1]


@pytest.mark.smoke
@pytest.mark.parametrize("name, millions", [("resnet50", 24), ("resnet50_2x", 94),
                                            ("resnet50_4x", 375)])  # fmt: skip
def test_wider_ones_are_simclrs(name, millions):
    """arXiv 2002.05709, table 6: parameters of the encoders alone."""
    with paddle.LazyGuard():
        network = build_backbone({"name": name})
    count = sum(math.prod(p.shape) for p in network.parameters())
    assert round(count / 1e6) == millions
    if name == "resnet50":
        assert count == 23508032


@pytest.mark.smoke
@pytest.mark.parametrize("stem, strides", [
    ({}, [4, 8]), ({"stem": "cifar"}, [1, 2]), ({"pool_padding": "none"}, [2, 4]),
    ({"padding": "same"}, [4, 8]), ({"padding": "torch", "pool_padding": "same"}, [4, 8]),
])  # fmt: skip
def test_shapes_at_any_size(stem, strides):
    network = small(**stem)
    network.eval()
    assert network.stage_channels == [16, 32] and network.num_features == 32
    assert network.stage_strides == strides
    for height, width in ((32, 32), (45, 30), (1, 7)):
        image = paddle.to_tensor(pixels(2, 3, height, width).astype(np.float32))
        stages = network.forward_stages(image)
        for stage, stride, channels in zip(stages, strides, (16, 32)):
            size = [math.ceil(height / stride), math.ceil(width / stride)]
            assert list(stage.shape) == [2, channels, *size]
        features = network.forward_features(image)
        assert np.array_equal(features.numpy(), stages[-1].numpy())
        np.testing.assert_allclose(
            network(image).numpy(), features.numpy().mean(axis=(2, 3)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.smoke
def test_one_stage_and_many():
    assert small(blocks=[2]).stage_strides == [4]
    assert small(blocks=[1, 1, 1, 1, 1], bottleneck=False).stage_channels == [4, 8, 16, 32, 64]
    assert small(in_channels=1)(paddle.zeros([1, 1, 32, 32])).shape == [1, 32]


# ------------------------------------------------ the same in NumPy, by the paper and TensorFlow


def padded(x, kernel, stride, way, value=0.0):
    """Pads height and width as torch's ResNets do, or as TensorFlow says of "SAME".

    www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding", which goes by the remainder.
    """
    widths = [(0, 0), (0, 0)]
    for size in x.shape[2:]:
        if way == "torch":
            widths.append((kernel // 2, kernel // 2))
            continue
        rest = size % stride
        total = max(kernel - (rest if rest else stride), 0)
        widths.append((total // 2, total - total // 2))
    return np.pad(x, widths, constant_values=value)


def windows(x, kernel, stride):
    found = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(2, 3))
    return found[:, :, ::stride, ::stride]


def conv_norm(x, layer, stride, way, state):
    weight = state[f"{layer}.conv.weight"]
    x = windows(padded(x, weight.shape[2], stride, way), weight.shape[2], stride)
    x = np.einsum("nchwij,ocij->nohw", x, weight)
    mean, variance, scale, offset = (
        state[f"{layer}.norm.{leaf}"][:, None, None]
        for leaf in ("_mean", "_variance", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset


def in_numpy(x, state, blocks, bottleneck, way, pool, stem_stride):
    x = np.maximum(conv_norm(x, "stem", stem_stride, way, state), 0)
    maps = []
    if pool != "none":
        x = windows(padded(x, 3, 2, pool, -np.inf), 3, 2).max(axis=(4, 5))
    for i, count in enumerate(blocks):
        for j in range(count):
            block = f"stages.{i}.{j}"
            stride = 2 if i > 0 and j == 0 else 1
            branch = x
            for k in range(3 if bottleneck else 2):
                step = stride if k == (1 if bottleneck else 0) else 1
                branch = conv_norm(np.maximum(branch, 0), f"{block}.layers.{k}", step, way, state)
            if f"{block}.shortcut.conv.weight" in state:
                x = conv_norm(x, f"{block}.shortcut", stride, way, state)
            x = np.maximum(branch + x, 0)
        maps.append(x)
    return maps


@pytest.mark.smoke
@pytest.mark.parametrize("size", [(24, 32), (13, 10), (31, 33)], ids=["24x32", "13x10", "31x33"])
@pytest.mark.parametrize("bottleneck", [True, False], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("way, pool, stem", [
    ("torch", None, "imagenet"), ("same", None, "imagenet"), ("torch", "same", "imagenet"),
    ("same", "torch", "imagenet"), ("torch", "none", "imagenet"), ("torch", None, "cifar"),
    ("same", None, "cifar"),
])  # fmt: skip
def test_it_computes_what_numpy_computes(way, pool, stem, bottleneck, size):
    network = small(bottleneck=bottleneck, padding=way, pool_padding=pool, stem=stem, blocks=[1, 2])
    rng = np.random.default_rng(1)
    for name, tensor in network.state_dict().items():
        if ".norm." in name:
            spread = rng.uniform(-0.5, 0.5, tensor.shape)
            start = 1.0 if name.endswith(("weight", "_variance")) else 0.0
            tensor.set_value(paddle.to_tensor((start + spread).astype(np.float32)))
    network = network.to(dtype="float64")
    network.eval()
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    image = pixels(2, 3, *size)
    wanted = in_numpy(
        image, state, [1, 2], bottleneck, way,
        "none" if stem == "cifar" else pool or way, 1 if stem == "cifar" else 2,
    )  # fmt: skip
    found = network.forward_stages(paddle.to_tensor(image))
    for ours, theirs in zip(found, wanted):
        assert ours.dtype == paddle.float64 and tuple(ours.shape) == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-9)


def test_tensorflows_padding_is_another_network():
    """On 32 pixels, where torch's is one row and column further up and left."""
    image = paddle.to_tensor(pixels(1, 3, 32, 32).astype(np.float32))
    found = []
    for way in ("torch", "same"):
        network = small(padding=way)
        network.eval()
        found.append(network(image).numpy())
    assert np.abs(found[0] - found[1]).max() > 0.01 * np.abs(found[0]).max()


# ------------------------------------------------ how it starts


# The truncated normal of Haiku is not rescaled: 0.8796 is what two standard deviations leave.
@pytest.mark.smoke
@pytest.mark.parametrize("init, fan, gain, cut", [
    ("kaiming", "out", math.sqrt(2), None), ("lecun_normal", "in", 1.0, 2 / 0.8796),
    ("truncated_normal", "in", 0.8796, 2.0),
])  # fmt: skip
def test_how_convolutions_start(init, fan, gain, cut):
    network = small(init=init, width=32)
    seen = 0
    for name, layer in network.named_sublayers():
        if not isinstance(layer, nn.Conv2D):
            continue
        weight = layer.weight.numpy()
        out, inputs, height, width = weight.shape
        root = math.sqrt(height * width * (out if fan == "out" else inputs))
        assert weight.std() * root == pytest.approx(gain, rel=6 / math.sqrt(weight.size)), name
        assert abs(weight.mean()) * root < 5 * gain / math.sqrt(weight.size), name
        largest = np.abs(weight).max() * root
        assert largest > 3 * gain if cut is None else 0.9 * cut < largest <= cut * 1.0001, name
        seen += 1
    assert seen == 1 + 3 * 3 + 2


@pytest.mark.smoke
def test_norms_start_as_nothing_and_the_last_of_a_block_at_zero_where_asked():
    for zero, bottleneck in ((False, True), (True, True), (True, False)):
        network = small(zero_init_last=zero, bottleneck=bottleneck)
        last = ".2.norm.weight" if bottleneck else ".1.norm.weight"
        zeros = 0
        for name, parameter in network.named_parameters():
            if ".norm." in name:
                expected = float(name.endswith("weight"))
                if zero and ".layers." in name and name.endswith(last):
                    expected, zeros = 0.0, zeros + 1
                assert (parameter.numpy() == expected).all(), name
        assert zeros == (3 if zero else 0)
        block = network.stages[1][1]
        x = paddle.to_tensor(pixels(2, block.layers[0].conv.weight.shape[1], 5, 5)).astype(
            "float32"
        )
        same = np.array_equal(block(x).numpy(), np.maximum(x.numpy(), 0))
        assert same == zero, "a block without a last scale is its shortcut"


# ------------------------------------------------ what is said of it


def test_depths_of_the_parameters():
    network = small()
    depths = network.parameter_depths
    assert list(depths) == [name for name, _ in network.named_parameters()]
    expected = {
        "stem.conv.weight": 0,
        "stem.norm.bias": 0,
        "stages.0.0.layers.0.conv.weight": 1,
        "stages.0.0.shortcut.norm.weight": 1,
        "stages.1.0.layers.2.norm.weight": 2,
        "stages.1.1.layers.1.conv.weight": 3,
    }
    assert {name: depths[name] for name in expected} == expected
    assert network.no_weight_decay == frozenset()


def test_what_can_be_looked_at():
    kind, kernels = small().pictured_weights()["stem"]
    assert kind == "stem" and kernels.shape == (4, 3, 7, 7)
    assert small(stem="cifar").pictured_weights()["stem"][1].shape == (4, 3, 3, 3)


def test_nothing_with_running_statistics_is_computed_twice():
    assert not any(getattr(layer, "recompute", False) for layer in small().sublayers())


def test_all_batch_norms_can_be_shared_and_forget_a_tenth():
    network = small()
    sync_batch_norms(network)
    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(norms) == 1 + 3 * 3 + 2 and all(norm.sync for norm in norms)
    assert {(norm._momentum, norm._epsilon) for norm in norms} == {(0.9, 1e-5)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"blocks": []}, "blocks is a list of the blocks of each stage, at least one"),
        ({"blocks": [2, 0]}, "blocks must be at least 1, not 0"),
        ({"blocks": 3}, "blocks"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"in_channels": 0}, "in_channels"),
        ({"stem": "tiny"}, "stem is imagenet or cifar, not 'tiny'"),
        ({"padding": "SAME"}, "padding is torch or same, not 'SAME'"),
        ({"padding": "none"}, "padding is torch or same, not 'none'"),
        ({"pool_padding": "valid"}, "pool_padding is torch or same or none, not 'valid'"),
        ({"pool_padding": 1}, "pool_padding"),
        ({"init": "xavier"}, "init is kaiming or lecun_normal or truncated_normal, not 'xavier'"),
        ({"stem": "cifar", "pool_padding": "same"}, "stem cifar has no max pooling"),
        ({"depth": 50}, "depth"),
        ({"bottleneck": 4}, "bottleneck"),
    ],
)
def test_impossible_arguments_are_named(changes, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**SMALL, **changes})


def test_images_it_was_not_built_for_are_named():
    with pytest.raises(PasslError, match="one float tensor"):
        small()(paddle.zeros([2, 4, 32, 32]))
