"""BEiT: sizes, what it refuses, how it starts, whose files it reads."""

import math

import numpy as np
import paddle
import pytest
from publishers import write_under

import passl
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.utils.errors import PasslError
from passl.weights import load_weights
from passl.weights.formats import safetensors, torch
from passl.weights.naming import Naming

TINY = {
    "img_size": [24, 32],
    "patch_size": 8,
    "embed_dim": 24,
    "num_blocks": 4,
    "num_heads": 3,
}


def tiny(classes=5, **arguments):
    network = passl.create_model("Beit", num_classes=classes, **{**TINY, **arguments})
    paddle.seed(3)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    return network


def pixels(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


PARAMETERS = {
    "beit_b16_224": 86530984, "beit_b16_384": 86744104, "beit_l16_224": 304430568,
    "beit_l16_384": 304998888, "beit_l16_512": 305674728,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_network_has_exactly_its_parameters(name):
    with paddle.LazyGuard():  # the shapes are enough
        network = passl.create_model(name, num_classes=1000)
    assert sum(math.prod(p.shape) for p in network.parameters()) == PARAMETERS[name]
    assert {name for name in BACKBONES.names() if name.startswith("beit_")} == set(PARAMETERS)
    # One index for all blocks, which no checkpoint carries.
    index = {id(block.attn.relative_position_index) for block in network.backbone.blocks}
    assert len(index) == 1 and not any("index" in name for name in network.state_dict())


@pytest.mark.smoke
def test_the_attention_is_the_papers_with_relative_positions():
    """Head by head in float64: biases of queries and values, rows of the table by distance."""
    network = tiny().backbone
    network.to(dtype="float64")
    layer = network.blocks[1].attn
    x = np.random.default_rng(1).normal(size=(2, 13, 24))
    weight, q_bias, v_bias = (t.numpy() for t in (layer.qkv.weight, layer.q_bias, layer.v_bias))
    table = layer.relative_position_bias_table.numpy()
    q, k, v = np.split(x @ weight, 3, axis=-1)
    q, v = q + q_bias, v + v_bias
    places = [None, *((y, x_) for y in range(3) for x_ in range(4))]
    wanted = np.zeros_like(x)
    for head in range(3):
        own = slice(8 * head, 8 * head + 8)
        bias = np.zeros((13, 13))
        for i, one in enumerate(places):
            for j, other in enumerate(places):
                if one and other:
                    row = (one[0] - other[0] + 2) * 7 + one[1] - other[1] + 3
                else:  # class token to patch, patch to class token, to itself
                    row = {(True, False): -3, (False, True): -2, (True, True): -1}[
                        (one is None, other is None)
                    ]
                bias[i, j] = table[row, head]
        scores = np.exp(q[..., own] @ k[..., own].swapaxes(1, 2) / math.sqrt(8) + bias)
        wanted[..., own] = scores / scores.sum(-1, keepdims=True) @ v[..., own]
    wanted = wanted @ layer.proj.weight.numpy() + layer.proj.bias.numpy()
    np.testing.assert_allclose(layer(paddle.to_tensor(x)), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.smoke
def test_the_mean_of_the_patches_is_normalised():
    network = tiny()
    images = pixels(2, 3, 24, 32)
    tokens = network.forward_features(images)
    assert tokens.shape == [2, 13, 24]
    pooled = network.backbone.fc_norm(tokens[:, 1:].mean(axis=1))
    np.testing.assert_allclose(network(images), network.head(pooled), rtol=1e-5, atol=1e-5)
    maps = network.backbone.forward_stages(images)
    assert len(maps) == 4 and {tuple(m.shape) for m in maps} == {(2, 24, 3, 4)}
    np.testing.assert_allclose(
        maps[-1].flatten(2).transpose([0, 2, 1]), tokens[:, 1:], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("arguments, words", [
    ({"num_heads": 5}, "5 attention heads do not divide 24 channels"),
    ({"patch_size": 7}, "must divide img_size"),
    ({"stage_blocks": [0]}, "rising numbers from 1 to 4"),
    ({"drop_rate": 1.0}, "drop_rate lies in"),
    ({"attention_drop_rate": 1.0}, "drop_rate lies in"),
])  # fmt: skip
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({"name": "Beit", **TINY, **arguments})


@pytest.mark.smoke
def test_depths_and_decay_are_the_authors():
    network = tiny().backbone
    depths = network.parameter_depths
    assert depths.keys() == {name for name, _ in network.named_parameters()}
    for name, depth in {
        "cls_token": 0, "stem.proj.weight": 0, "blocks.0.gamma_1": 1,
        "blocks.3.attn.relative_position_bias_table": 4, "fc_norm.bias": 5,
    }.items():  # fmt: skip
        assert depths[name] == depth
    assert network.no_weight_decay == {"cls_token"}


def test_it_starts_as_its_authors_start_it():
    paddle.seed(0)
    sizes = {"img_size": 32, "num_blocks": 3}
    network = build_backbone({"name": "beit_b16_224", **sizes})
    for n, block in enumerate(network.blocks, start=1):
        for layer in (block.attn.proj, block.mlp.fc2):
            assert layer.weight.numpy().std() == pytest.approx(0.02 / math.sqrt(2 * n), rel=0.02)
        for layer in (block.attn.qkv, block.mlp.fc1):
            assert layer.weight.numpy().std() == pytest.approx(0.02, rel=0.02)
        for parameter in (
            block.attn.q_bias, block.attn.v_bias, block.attn.relative_position_bias_table,
            block.mlp.fc1.bias, block.attn.proj.bias,
        ):  # fmt: skip
            assert not parameter.numpy().any()
        assert (block.gamma_1.numpy() == np.float32(0.1)).all()
    assert network.cls_token.numpy().std() == pytest.approx(0.02, rel=0.15)
    large = build_backbone({"name": "beit_l16_224", **sizes, "num_blocks": 1})
    assert (large.blocks[0].gamma_2.numpy() == np.float32(1e-5)).all()


@pytest.mark.smoke
def test_every_parameter_gets_a_gradient():
    network = tiny()
    network(pixels(3, 3, 24, 32)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, key


def test_a_static_program_gives_the_same():
    network = tiny()
    images = pixels(2, 3, 24, 32)
    eager = network(images).numpy()
    spec = paddle.static.InputSpec([None, 3, 24, 32], "float32")
    program = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    np.testing.assert_allclose(program(images), eager, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(images[:1]), eager[:1], rtol=1e-4, atol=1e-5)


# What released files hold, written out by hand from the publishers' code.
def in_unilms_names(network):
    arrays = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        name = name.replace("backbone.", "").replace("stem.", "patch_embed.")
        name = name.replace("head.fc", "head")
        arrays[name] = array.T if array.ndim == 2 and not name.endswith("table") else array
    for i in range(TINY["num_blocks"]):
        arrays[f"blocks.{i}.attn.relative_position_index"] = np.zeros((13, 13), np.int64)
    return arrays


def in_paddles_layout(arrays):
    return {
        n: a.T if a.ndim == 2 and not n.endswith(("table", "index")) else a
        for n, a in arrays.items()
    }


def in_passls_old_names(network):
    return {
        name.replace("head.", "head.fc_cls.") if "head." in name else f"backbone.{name}": array
        for name, array in in_paddles_layout(in_unilms_names(network)).items()
    }


@pytest.mark.smoke
@pytest.mark.parametrize("publisher", ["unilm", "timm", "passl_v1", "paddlevit"])
def test_files_of_every_publisher_are_read(publisher, tmp_path):
    source, file = tiny(), tmp_path / "x.pth"
    theirs = in_unilms_names(source)
    if publisher == "unilm":
        write_under(file, "model", theirs)
    elif publisher == "timm":
        torch.write(str(file), theirs)
    else:
        file = tmp_path / "x.pdparams"
        named = in_passls_old_names(source)
        paddle.save(named if publisher == "passl_v1" else in_paddles_layout(theirs), str(file))
    network = passl.create_model("Beit", num_classes=5, **TINY)
    report = load_weights(network, file)
    assert report.publisher == publisher and not report.kept
    assert len(report.left_out) == 4 and len(report.loaded) == len(source.state_dict())
    images = pixels(2, 3, 24, 32)
    np.testing.assert_array_equal(network(images), source(images))


def pretrained_only(source):
    """One table for all blocks, what masks patches and predicts them, and no head."""
    theirs = {
        name: array for name, array in in_unilms_names(source).items()
        if not name.startswith(("fc_norm", "head")) and "relative_position" not in name
    }  # fmt: skip
    table = source.backbone.blocks[2].attn.relative_position_bias_table.numpy()
    theirs["rel_pos_bias.relative_position_bias_table"] = table
    theirs["rel_pos_bias.relative_position_index"] = np.zeros((13, 13), np.int64)
    theirs["mask_token"] = np.zeros((1, 1, 24), np.float32)
    for name, shape in (("norm", [24]), ("lm_head", [8192, 24])):
        theirs[f"{name}.weight"] = np.ones(shape, np.float32)
        theirs[f"{name}.bias"] = np.ones(shape[:1], np.float32)
    return theirs, table


@pytest.mark.smoke
def test_what_was_only_pre_trained_is_fine_tuned_from(tmp_path):
    source, network = tiny(), tiny()
    theirs, table = pretrained_only(source)
    write_under(tmp_path / "x.pth", "model", theirs)
    for block in network.backbone.blocks:
        block.attn.relative_position_bias_table.set_value(np.zeros_like(table))
    norm = network.backbone.fc_norm.weight.numpy()
    with pytest.raises(PasslError, match="4 missing in the file: backbone.fc_norm.weight"):
        load_weights(network, tmp_path / "x.pth")
    report = load_weights(network, tmp_path / "x.pth", new_head=True)
    assert sorted(report.kept) == [
        "backbone.fc_norm.bias", "backbone.fc_norm.weight", "head.fc.bias", "head.fc.weight",
    ]  # fmt: skip
    for block in network.backbone.blocks:
        np.testing.assert_array_equal(block.attn.relative_position_bias_table.numpy(), table)
    np.testing.assert_array_equal(network.backbone.fc_norm.weight.numpy(), norm)
    np.testing.assert_array_equal(
        network.backbone.blocks[3].mlp.fc1.weight, source.backbone.blocks[3].mlp.fc1.weight
    )


def test_a_file_with_a_head_must_have_all_that_is_below_it(tmp_path):
    theirs = in_unilms_names(tiny())
    del theirs["fc_norm.weight"]
    torch.write(str(tmp_path / "x.pth"), theirs)
    with pytest.raises(PasslError, match="1 missing in the file: backbone.fc_norm.weight"):
        load_weights(tiny(classes=7), tmp_path / "x.pth", new_head=True)
    assert Naming("x", "torch", {}, may_lack=("backbone.fc_norm",)).may_lack(
        "backbone.fc_norm.bias"
    )


@pytest.mark.parametrize("publisher, way", [
    ("unilm", "geometric, cubic"), ("timm", "geometric, linear"),
])  # fmt: skip
def test_tables_for_another_size_are_resized(publisher, way, tmp_path, messages):
    source, network = tiny(img_size=32), tiny(img_size=64)
    theirs = {n: a for n, a in in_unilms_names(source).items() if "index" not in n}
    if publisher == "unilm":
        write_under(tmp_path / "x", "model", theirs)
    else:
        safetensors.write(str(tmp_path / "x"), theirs, {"format": "pt"})
    load_weights(network, tmp_path / "x")
    assert any(f"resized for 8×8 patches ({way})" in line for line in messages())
    new, old = (n.backbone.blocks[1].attn.relative_position_bias_table for n in (network, source))
    assert new.shape == [228, 3] and old.shape == [52, 3]
    np.testing.assert_array_equal(new[-3:], old[-3:])
    np.testing.assert_allclose(new[112], old[24], rtol=1e-5)
