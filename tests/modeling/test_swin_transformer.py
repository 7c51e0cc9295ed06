"""Swin Transformer: sizes, windows, what it refuses, how it starts, whose files it reads."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from publishers import write_under

import passl
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.backbones.swin_transformer import PatchMerging, SwinBlock
from passl.modeling.layers.relative_positions import look_up
from passl.utils.errors import PasslError
from passl.weights import load_weights
from passl.weights.formats import safetensors, torch

TINY = {
    "img_size": [32, 64],
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}


def tiny(classes=5, **arguments):
    paddle.seed(3)
    network = passl.create_model("SwinTransformer", num_classes=classes, **{**TINY, **arguments})
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    return network


def pixels(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


PARAMETERS = {
    "swin_t_224": 28288354, "swin_s_224": 49606258, "swin_b_224": 87768224,
    "swin_b_384": 87903584, "swin_l_224": 196532476, "swin_l_384": 196735516,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_network_has_exactly_its_parameters(name):
    with paddle.LazyGuard():  # the shapes are enough
        network = passl.create_model(name, num_classes=1000)
    assert sum(math.prod(p.shape) for p in network.parameters()) == PARAMETERS[name]
    assert {name for name in BACKBONES.names() if name.startswith("swin_")} == set(PARAMETERS)


def windows_of(backbone):
    return [[(block.window, block.shift) for block in stage] for stage in backbone.stages]


@pytest.mark.smoke
@pytest.mark.parametrize("size, window, windows", [
    (224, 7, [(7, 3), (7, 3), (7, 3), (7, 0)]),
    (384, 12, [(12, 6), (12, 6), (12, 6), (12, 0)]),
    # The last two maps are no larger than a window: nothing to shift, and a smaller window.
    (96, 6, [(6, 3), (6, 3), (6, 0), (3, 0)]),
    ([224, 448], 7, [(7, 3), (7, 3), (7, 3), (7, 0)]),
])  # fmt: skip
def test_where_the_map_is_a_window_nothing_is_shifted(size, window, windows):
    sizes = {"embed_dim": 24, "depths": [2, 2, 2, 2], "window_size": window}
    network = build_backbone({"name": "swin_t_224", "img_size": size, **sizes})
    assert windows_of(network) == [[(w, 0), (w, s)] for w, s in windows]
    tables = [stage[0].attn.relative_position_bias_table.shape[0] for stage in network.stages]
    assert tables == [(2 * w - 1) ** 2 for w, _ in windows]


def by_hand(block, x):
    """Attention of a block, window by window and pair by pair, in float64."""
    n, height, width, channels = x.shape
    w, s, heads = block.window, block.shift, block.attn.heads
    d = channels // heads
    table = block.attn.relative_position_bias_table.numpy()
    weight, bias = block.attn.qkv.weight.numpy(), block.attn.qkv.bias.numpy()
    q, k, v = np.split(x @ weight + bias, 3, axis=-1)
    out = np.zeros_like(x)
    for image in range(n):
        for y in range(height):
            for x_ in range(width):
                # The window after the shift, and the part of the map before it.
                def window(a, b):
                    return ((a - s) % height // w, (b - s) % width // w)

                def part(a, b):
                    return (a < s, b < s)

                mine = window(y, x_), part(y, x_)
                others = [
                    (a, b) for a in range(height) for b in range(width)
                    if (window(a, b), part(a, b)) == mine
                ]  # fmt: skip
                for head in range(heads):
                    own = slice(head * d, head * d + d)
                    scores = np.array([
                        q[image, y, x_, own] @ k[image, a, b, own] / math.sqrt(d)
                        + table[
                            ((y - s) % height - (a - s) % height + w - 1) * (2 * w - 1)
                            + (x_ - s) % width - (b - s) % width + w - 1,
                            head,
                        ]
                        for a, b in others
                    ])  # fmt: skip
                    weights = np.exp(scores - scores.max())
                    weights /= weights.sum()
                    out[image, y, x_, own] = sum(
                        share * v[image, a, b, own] for share, (a, b) in zip(weights, others)
                    )
    return out @ block.attn.proj.weight.numpy() + block.attn.proj.bias.numpy()


def test_a_block_attends_inside_of_its_windows_alone():
    """Both kinds, on a map that is not square, beside loops over pairs of tokens."""
    network = tiny().backbone
    network.to(dtype="float64")
    for block in network.stages[0]:
        assert isinstance(block, SwinBlock) and block.size == (8, 16)
        x = np.random.default_rng(1).normal(size=(1, 8, 16, 8))
        normed = block.norm1(paddle.to_tensor(x)).numpy()
        after = x + by_hand(block, normed)
        tokens = paddle.to_tensor(after)
        wanted = after + block.mlp(block.norm2(tokens)).numpy()
        np.testing.assert_allclose(block(paddle.to_tensor(x)), wanted, rtol=1e-9, atol=1e-9)
    assert [block.shift for block in network.stages[0]] == [0, 2]


def test_four_pixels_are_joined_in_the_authors_order():
    layer = PatchMerging(3)
    x = pixels(2, 4, 6, 3)
    joined = paddle.concat(
        [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], axis=-1
    )
    np.testing.assert_allclose(layer(x), layer.reduction(layer.norm(joined)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arguments, words", [
    ({"depths": [2]}, "depths and num_heads have a number for each stage"),
    ({"num_heads": [3, 4]}, "3 attention heads do not divide 8 channels"),
    ({"img_size": [32, 40]}, "windows of 4×4 do not divide the map of 8×10 that stage 1 has"),
    ({"img_size": [20, 20], "window_size": 5}, "cannot be halved 1 times"),
    ({"window_size": 0}, "window_size must be at least 1"),
    ({"drop_rate": 1.0}, "drop_rate lies in"),
    ({"attention_drop_rate": 2.0}, "drop_rate lies in"),
    ({"mlp_ratio": 0.0}, "mlp_ratio must be at least 1"),
])  # fmt: skip
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({"name": "SwinTransformer", **TINY, **arguments})


@pytest.mark.smoke
def test_the_maps_of_the_stages():
    network = tiny().backbone
    images = pixels(2, 3, 32, 64)
    first, last = network.forward_stages(images)
    assert (first.shape, last.shape) == ([2, 8, 8, 16], [2, 16, 4, 8])
    assert network.stage_channels == [8, 16] and network.stage_strides == [4, 8]
    tokens = network.norm(last.flatten(2).transpose([0, 2, 1]))
    np.testing.assert_allclose(tokens, network.forward_features(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokens.mean(axis=1), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.smoke
def test_depths_and_decay_are_the_authors():
    network = build_backbone({"name": "swin_t_224", "embed_dim": 24})
    depths = network.parameter_depths
    top = {"norm.weight", "norm.bias"}  # as deep as the head
    assert depths.keys() | top == {name for name, _ in network.named_parameters()}
    assert not top & depths.keys()
    for name, depth in {
        "stem.proj.weight": 0, "stem_norm.bias": 0, "stages.0.0.norm1.weight": 1,
        "stages.0.1.mlp.fc2.bias": 2, "merging.0.norm.weight": 2, "stages.1.0.attn.qkv.weight": 3,
        "merging.1.reduction.weight": 4, "merging.2.reduction.weight": 10,
        "stages.3.1.norm2.bias": 12,
    }.items():  # fmt: skip
        assert depths[name] == depth, name
    assert network.no_weight_decay == {
        f"stages.{i}.{j}.attn.relative_position_bias_table"
        for i, depth in enumerate((2, 2, 6, 2)) for j in range(depth)
    }  # fmt: skip


def test_it_starts_as_its_authors_start_it():
    paddle.seed(0)
    network = build_backbone({"name": "swin_t_224"})
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        if name.endswith("table") or (values.ndim == 2):
            assert values.std() == pytest.approx(0.02, rel=0.15), name
        elif name.endswith("bias") and "stem.proj" not in name:
            assert not values.any(), name
    bound = 48**-0.5
    assert 0.95 * bound < np.abs(network.stem.proj.weight.numpy()).max() <= bound * (1 + 1e-6)


@pytest.mark.smoke
def test_every_parameter_gets_a_gradient():
    network = tiny()
    network(pixels(3, 3, 32, 64)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, key


def test_a_static_program_gives_the_same():
    network = tiny()
    images = pixels(2, 3, 32, 64)
    eager = network(images).numpy()
    spec = paddle.static.InputSpec([None, 3, 32, 64], "float32")
    program = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    np.testing.assert_allclose(program(images), eager, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(images[:1]), eager[:1], rtol=1e-4, atol=1e-5)


# What released files hold, written out by hand from the publishers' code.
def in_microsofts_names(network, stem="patch_embed", head="head"):
    arrays = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        name = name.replace("backbone.", "").replace("stem_norm", f"{stem}.norm")
        name = name.replace("stem.proj", f"{stem}.proj").replace("head.fc", head)
        parts = name.split(".")
        if parts[0] == "stages":
            name = ".".join(["layers", parts[1], "blocks", *parts[2:]])
        if parts[0] == "merging":
            name = ".".join(["layers", parts[1], "downsample", *parts[2:]])
        arrays[name] = array.T if array.ndim == 2 and not name.endswith("table") else array
    arrays["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((16, 16), np.int64)
    arrays["layers.0.blocks.1.attn.relative_position_index"] = np.zeros((16, 16), np.int64)
    arrays["layers.0.blocks.1.attn_mask"] = np.zeros((8, 16, 16), np.float32)
    return arrays


def in_timms_names(network):
    return {
        name.replace("layers.0.downsample", "layers.1.downsample").replace("head.", "head.fc."): a
        for name, a in in_microsofts_names(network).items()
    }


def in_mmpretrains_names(network):
    """nn.Unfold: channel by channel, and in each the pixels (0, 0), (0, 1), (1, 0), (1, 1)."""
    theirs = {}
    for name, array in in_microsofts_names(network).items():
        for ours, there in (
            ("patch_embed.proj", "patch_embed.projection"), ("layers.", "stages."),
            ("attn.qkv", "attn.w_msa.qkv"), ("attn.proj", "attn.w_msa.proj"),
            ("attn.rel", "attn.w_msa.rel"), ("mlp.fc1", "ffn.layers.0.0"),
            ("mlp.fc2", "ffn.layers.1"),
        ):  # fmt: skip
            name = name.replace(ours, there)
        if ".downsample." in name:
            channels = array.shape[-1] // 4
            pixels_first = array.reshape(*array.shape[:-1], 4, channels)[..., [0, 2, 1, 3], :]
            array = pixels_first.swapaxes(-1, -2).reshape(array.shape)
        if name.startswith("head."):
            theirs[name.replace("head.", "head.fc.")] = array
        else:
            name = f"norm3.{name[5:]}" if name.startswith("norm.") else name
            theirs[f"backbone.{name}"] = array
    return theirs


def in_paddles_layout(arrays):
    return {
        n: a.T if a.ndim == 2 and not n.endswith(("table", "index")) else a
        for n, a in arrays.items()
    }


def in_passls_old_names(network):
    return in_paddles_layout(
        {
            name.replace("head.", "head.fc_cls.") if name.startswith("head.")
            else f"backbone.{name}": array
            for name, array in in_microsofts_names(network).items()
        }
    )  # fmt: skip


def in_paddlevits_names(network):
    theirs = {}
    for name, array in in_microsofts_names(network).items():
        name = name.replace("patch_embed.proj", "patch_embedding.patch_embed")
        name = name.replace("patch_embed.norm", "patch_embedding.norm")
        name = name.replace("layers.", "stages.").replace("head.", "fc.")
        theirs[name] = array
    return in_paddles_layout(theirs)


PUBLISHED = {
    "microsoft": in_microsofts_names,
    "timm": in_timms_names,
    "mmpretrain": in_mmpretrains_names,
    "passl_v1": in_passls_old_names,
    "paddleclas": lambda network: in_paddles_layout(in_microsofts_names(network)),
    "paddlevit": in_paddlevits_names,
}


@pytest.mark.smoke
@pytest.mark.parametrize("publisher", PUBLISHED)
def test_files_of_every_publisher_are_read(publisher, tmp_path):
    source = tiny()
    theirs = PUBLISHED[publisher](source)
    if publisher == "microsoft":
        file = tmp_path / "x.pth"
        write_under(file, "model", theirs)
    elif publisher in ("timm", "mmpretrain"):
        file = tmp_path / "x.pth"
        torch.write(str(file), theirs)
    else:
        file = tmp_path / "x.pdparams"
        paddle.save(theirs, str(file))
    network = passl.create_model("SwinTransformer", num_classes=5, **TINY)
    report = load_weights(network, file)
    assert report.publisher == publisher and not report.kept
    assert len(report.left_out) == 3 and len(report.loaded) == len(source.state_dict())
    images = pixels(2, 3, 32, 64)
    np.testing.assert_array_equal(network(images), source(images))


@pytest.mark.parametrize(
    "publisher, way",
    [("microsoft", "bicubic"), ("timm", "geometric, linear")],
    ids=["microsoft", "timm"],
)
def test_tables_for_other_windows_are_resized(publisher, way, tmp_path, messages):
    source = tiny(img_size=32)
    file = tmp_path / "x.safetensors"
    theirs = {n: a for n, a in PUBLISHED[publisher](source).items() if "attn_mask" not in n}
    safetensors.write(str(file), theirs, {"format": "pt"})
    network = tiny(img_size=64, window_size=8)
    load_weights(network, file)
    assert any(f"resized for this network's windows ({way})" in line for line in messages())
    table = network.backbone.stages[0][1].attn.relative_position_bias_table
    old = source.backbone.stages[0][1].attn.relative_position_bias_table
    assert table.shape == [225, 2] and old.shape == [49, 2]
    np.testing.assert_allclose(table[112], old[24], rtol=1e-5), "the centre stays"


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_index_that_was_rounded_is_refused(dtype):
    """As by ``network.to(dtype=…)``: more than 256 rows are not told apart in bfloat16."""
    table = paddle.zeros([3, 2])
    with pytest.raises(PasslError, match="index of relative positions was rounded to 16 bits"):
        look_up(table, paddle.to_tensor([[0, 1], [2, 0]]).astype(dtype))
    found = look_up(table + 1, paddle.to_tensor([[0.0, 1.0]], dtype="float64"))
    assert found.shape == [2, 1, 2] and float(found.min()) == 1.0


def test_every_norm_has_the_authors_epsilon():
    network = build_backbone({"name": "swin_t_224", "embed_dim": 24})
    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 1 + 2 * 12 + 3 + 1 and {norm._epsilon for norm in norms} == {1e-5}
