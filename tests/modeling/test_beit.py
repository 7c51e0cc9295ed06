"""BEiT: sizes, what it refuses, how it starts, whose files it reads."""

import math

import numpy as np
import paddle
import pytest
from publishers import write_under

import passl
from passl.engine.execution import recompute_blocks
from passl.inspection.costs import count_macs
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.heads import build_head
from passl.modeling.layers import functional, resized_grid
from passl.modeling.layers.relative_positions import class_token_index, resized_table
from passl.solver.groups import layer_scales
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights
from passl.weights.converting import convert_weights
from passl.weights.formats import safetensors, torch
from passl.weights.naming import Naming

TINY = {
    "img_size": [24, 32],
    "patch_size": 8,
    "embed_dim": 24,
    "num_blocks": 4,
    "num_heads": 3,
}

# Of what was only pre-trained on ImageNet-1k.
ABSOLUTE = {"positions": "absolute", "layer_scale_init": 0.0}


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


@pytest.mark.parametrize("name, parameters", [
    ("beit_b16_224", 102557713), ("beit_l16_224", 325792593),
])  # fmt: skip
def test_with_the_classes_of_imagenet_22k_too(name, parameters):
    with paddle.LazyGuard():
        network = passl.create_model(name, num_classes=21841)
    assert sum(math.prod(p.shape) for p in network.parameters()) == parameters


def test_with_absolute_positions_there_are_no_tables():
    with paddle.LazyGuard():
        network = passl.create_model("beit_b16_224", num_classes=1000, **ABSOLUTE)
    assert sum(math.prod(p.shape) for p in network.parameters()) == 86558440
    names = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
    assert names == {"cls_token", "pos_embed", "q_bias", "v_bias", "weight", "bias"}


@pytest.mark.smoke
def test_all_of_the_attentions_products_are_counted():
    network = tiny().backbone
    tokens, c = 13, 24
    of_a_block = tokens * (c * 3 * c + c * c + 2 * c * 4 * c) + 2 * tokens * tokens * c
    macs = count_macs(network, lambda: network(pixels(1, 3, 24, 32)))
    assert macs == 12 * 3 * 8 * 8 * c + 4 * of_a_block


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
def test_the_norms_have_the_authors_epsilon():
    """Beside the formula, for numbers whose variance is no larger than it: 1e-6."""
    network = tiny().backbone
    norms = [n for block in network.blocks for n in (block.norm1, block.norm2)]
    x = 1e-3 * pixels(5, 24).numpy().astype(np.float64)
    for norm in (*norms, network.fc_norm):
        wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        wanted = wanted * norm.weight.numpy() + norm.bias.numpy()
        np.testing.assert_allclose(norm(paddle.to_tensor(x.astype("f4"))), wanted, atol=1e-5)


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


REFUSED = [
    ({"num_heads": 5}, "5 attention heads do not divide 24 channels"),
    ({"patch_size": 7}, "must divide img_size"),
    ({"stage_blocks": [0]}, "rising numbers from 1 to 4"),
    ({"mlp_ratio": 0.0}, "mlp_ratio must be at least 1"),
    ({"num_blocks": 0}, "num_blocks must be at least 1"),
    ({"embed_dim": 0}, "embed_dim must be at least 1"),
    ({"in_channels": 0}, "in_channels must be at least 1"),
    ({"num_heads": 0}, "0 attention heads"),
    ({"drop_path_rate": 1.0}, "drop_path_rate lies in"),
    ({"positions": "learned"}, "positions is 'relative' or 'absolute', not 'learned'"),
    ({"drop_rate": 1.0}, "drop_rate lies in"),
    ({"attention_drop_rate": 1.0}, "drop_rate lies in"),
]


@pytest.mark.parametrize("arguments, words", REFUSED, ids=["".join(given) for given, _ in REFUSED])
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({"name": "Beit", **TINY, **arguments})


def test_another_image_size_is_refused():
    with pytest.raises(PasslError, match="built for images of 24×32 .* but got 32×24"):
        tiny()(pixels(1, 3, 32, 24))


@pytest.mark.smoke
def test_maps_of_other_blocks():
    network = tiny(stage_blocks=[1, 3]).backbone
    images, tokens = pixels(2, 3, 24, 32), []
    for block in network.blocks:
        block.register_forward_post_hook(lambda *given: tokens.append(given[-1]))
    maps = network.forward_stages(images)
    assert network.stage_channels == [24, 24] and network.stage_strides == [8, 8]
    for found, block in zip(maps, (0, 2)):
        for place in range(12):
            y, x = divmod(place, 4)
            np.testing.assert_array_equal(found[:, :, y, x], tokens[block][:, 1 + place])


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [{}, ABSOLUTE], ids=["relative", "absolute"])
def test_depths_and_decay_are_the_authors(arguments):
    network = tiny(**arguments)
    scales = layer_scales(network, 0.5)
    assert scales.keys() == {name for name, _ in network.named_parameters()}
    for name, scale in scales.items():
        part, *rest = name.replace("backbone.", "").split(".")
        # The authors' number of the layer, from 0 to that of the last block and one.
        number = {"cls_token": 0, "pos_embed": 0, "stem": 0, "fc_norm": 5, "head": 5}.get(part)
        number = int(rest[0]) + 1 if part == "blocks" else number
        assert scale == 0.5 ** (5 - number), name
    assert network.backbone.parameter_depths["blocks.3.norm1.bias"] == 4
    # The authors' parameters of more than one axis, but for matrices of layers.
    decayed = {"weight", "relative_position_bias_table"}
    assert network.backbone.no_weight_decay == {
        name for name, parameter in network.backbone.named_parameters()
        if parameter.ndim > 1 and name.rpartition(".")[2] not in decayed
    }  # fmt: skip


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
        for scale in (block.gamma_1, block.gamma_2):
            assert (scale.numpy() == np.float32(0.1)).all()
        for norm in (block.norm1, block.norm2, network.fc_norm):
            assert (norm.weight.numpy() == 1).all() and not norm.bias.numpy().any()
    bound = 768**-0.5  # torch's default for a convolution
    for values in (network.stem.proj.weight.numpy(), network.stem.proj.bias.numpy()):
        assert 0.95 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert network.cls_token.numpy().std() == pytest.approx(0.02, rel=0.15)
    absolute = build_backbone({"name": "beit_b16_224", "num_blocks": 1, **ABSOLUTE})
    assert absolute.pos_embed.numpy().std() == pytest.approx(0.02, rel=0.02)
    large = build_backbone({"name": "beit_l16_224", **sizes, "num_blocks": 1})
    assert (large.blocks[0].gamma_2.numpy() == np.float32(1e-5)).all()


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [{}, ABSOLUTE], ids=["relative", "absolute"])
def test_every_parameter_gets_the_same_gradient_both_ways(arguments, monkeypatch):
    """By the processor's kernels, and by Paddle's operations."""
    network, images = tiny(**arguments), pixels(3, 3, 24, 32)
    found = []
    for least in (0, 2**40):
        monkeypatch.setattr(functional, "_WORTH_IT", least)
        with functional.single_backward():
            network.clear_gradients()
            network(images).square().sum().backward()
        found.append({name: p.grad.numpy() for name, p in network.named_parameters()})
    for name, gradient in found[0].items():
        size = np.abs(gradient).max()
        assert size > 0, name
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-3, atol=1e-4 * size)


def test_stochastic_depth_rises_and_drops_branches_of_single_images():
    network = tiny(drop_path_rate=0.6).backbone
    rates = [block.drop_path.rate for block in network.blocks]
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.6])
    block, x = network.blocks[3], pixels(1, 13, 24).expand([200, 13, 24])
    block.train()
    paddle.seed(0)
    unlike = [not np.allclose(image, x[0].numpy(), atol=1e-6) for image in block(x).numpy()]
    # Both branches are dropped in 0.36 of the cases.
    assert np.mean(unlike) == pytest.approx(0.64, abs=0.1)
    block.eval()
    np.testing.assert_array_equal(block(x)[0], block(x)[1])


@pytest.mark.parametrize("rate", ["drop_rate", "attention_drop_rate"])
def test_dropout_acts_in_training_alone(rate):
    network = tiny(**{rate: 0.5}).backbone
    images = pixels(2, 3, 24, 32)
    np.testing.assert_array_equal(network(images), tiny().backbone(images))
    network.train()
    assert not np.allclose(network(images), network(images))


def test_dropout_has_all_its_places():
    """After the tokens, the projection and the MLP, but not between the MLP's two maps."""
    network = tiny(drop_rate=0.5, attention_drop_rate=0.5).backbone
    network.train()
    block = network.blocks[0]
    for layer, shape in ((network, (2, 3, 24, 32)), (block.attn, (4, 13, 24))):
        embedded = layer._embedded(pixels(*shape)) if layer is network else layer(pixels(*shape))
        assert 0.4 < np.mean(embedded.numpy() == 0) < 0.6
    hidden = []
    block.mlp.fc2.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].numpy()))
    before = []
    block.drop.register_forward_post_hook(lambda *given: before.append(given[-1].numpy()))
    block(pixels(4, 13, 24))
    assert np.mean(hidden[0] == 0) < 0.01 and 0.4 < np.mean(before[0] == 0) < 0.6


def test_blocks_can_be_computed_twice():
    """The loss and the gradients stay what they are, dropped numbers too."""
    results = []
    for again in (False, True):
        rates = {"drop_rate": 0.2, "attention_drop_rate": 0.2, "drop_path_rate": 0.3}
        model = build_architecture(
            {
                "architecture": {"name": "Beit", **TINY, **rates},
                "head": {"name": "ClassificationHead", "num_classes": 5},
            }
        )
        rng = np.random.default_rng(0)
        for parameter in model.parameters():
            parameter.set_value(rng.normal(size=parameter.shape).astype(np.float32) * 0.3)
        if again:
            if paddle.__version__.startswith("2."):
                pytest.skip("PaddlePaddle 2 recomputes on a GPU alone")
            recompute_blocks(model)
        paddle.seed(7)
        batch = {"image": pixels(4, 3, 24, 32), "label": paddle.to_tensor([0, 3, 1, 4])}
        loss = model(batch)["loss"]
        loss.backward()
        results.append([float(loss), *(p.grad.numpy() for p in model.parameters())])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


def test_the_pictures_show_what_is_added_for_each_distance():
    network = tiny().backbone
    pictured = network.pictured_weights()
    kinds = {name: kind for name, (kind, _) in pictured.items()}
    assert kinds == {
        "stem": "stem", **{f"relative_positions_{i:02d}": "relative_positions" for i in range(4)},
    }  # fmt: skip
    np.testing.assert_array_equal(pictured["stem"][1], network.stem.proj.weight.numpy())
    index = class_token_index(3, 4)
    for i, block in enumerate(network.blocks):
        maps = pictured[f"relative_positions_{i:02d}"][1]
        assert maps.shape == (3, 5, 7)
        bias = block.attn.relative_position_bias_table.numpy()[index]  # [13, 13, heads]
        for query, key in ((0, 0), (0, 11), (11, 0), (2, 9), (6, 5)):
            (y, x), (y_, x_) = divmod(query, 4), divmod(key, 4)
            np.testing.assert_array_equal(maps[:, y - y_ + 2, x - x_ + 3], bias[1 + query, 1 + key])


@pytest.mark.parametrize("arguments", [{}, ABSOLUTE], ids=["relative", "absolute"])
def test_a_static_program_gives_the_same(arguments):
    network = tiny(**arguments)
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
    if "pos_embed" not in arrays:
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
@pytest.mark.parametrize("arguments", [{}, ABSOLUTE], ids=["relative", "absolute"])
@pytest.mark.parametrize("publisher", ["unilm", "timm", "passl_v1", "paddlevit"])
def test_files_of_every_publisher_are_read(publisher, arguments, tmp_path):
    source, file = tiny(**arguments), tmp_path / "x.pth"
    theirs = in_unilms_names(source)
    if publisher == "unilm":
        write_under(file, "model", theirs)
    elif publisher == "timm":
        torch.write(str(file), theirs)
    else:
        file = tmp_path / "x.pdparams"
        named = in_passls_old_names(source)
        paddle.save(named if publisher == "passl_v1" else in_paddles_layout(theirs), str(file))
    network = passl.create_model("Beit", num_classes=5, **TINY, **arguments)
    report = load_weights(network, file)
    assert report.publisher == publisher and not report.kept
    assert len(report.left_out) == (0 if arguments else 4) and len(report.loaded) == len(
        source.state_dict()
    )
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


@pytest.mark.parametrize(
    "publisher, way",
    [("unilm", "geometric, cubic"), ("timm", "geometric, linear")],
    ids=["unilm", "timm"],
)
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


@pytest.mark.parametrize("publisher", ["passl_v1", "paddlevit", "passl"])
def test_others_tables_are_resized_as_the_authors_do(publisher):
    network = build_backbone({"name": "Beit", **TINY})
    table = pixels(7 * 7 + 3, 3).numpy()
    change, words = network.adapt_weight(
        "blocks.0.attn.relative_position_bias_table", table.shape, publisher
    )
    assert "3×4 patches (geometric, cubic)" in words
    np.testing.assert_array_equal(change(table), resized_table(table, (3, 4), "geometric_cubic", 3))
    assert network.adapt_weight("blocks.0.attn.relative_position_bias_table", (52, 4), "x") is None
    assert network.adapt_weight("blocks.0.mlp.fc1.weight", (52, 3), "x") is None


@pytest.mark.parametrize("publisher, way, words", [
    ("unilm", "bicubic", "bicubic"), ("timm", "bicubic_antialias", "bicubic, antialias"),
    ("paddlevit", "bicubic", "bicubic"),
], ids=["unilm", "timm", "paddlevit"])  # fmt: skip
def test_absolute_positions_are_resized_behind_the_class_tokens(publisher, way, words):
    network = build_backbone({"name": "Beit", **TINY, **ABSOLUTE})
    positions = pixels(1, 17, 24).numpy()
    change, sentence = network.adapt_weight("pos_embed", positions.shape, publisher)
    assert sentence == f"positions resized for 3×4 patches ({words})"
    new = change(positions)
    assert new.shape == (1, 13, 24)
    np.testing.assert_array_equal(new[:, 0], positions[:, 0])
    wanted = resized_grid(positions[0, 1:].reshape(4, 4, 24), (3, 4), way)
    np.testing.assert_array_equal(new[0, 1:].reshape(3, 4, 24), wanted)
    assert network.adapt_weight("pos_embed", (1, 17, 25), publisher) is None
    assert network.adapt_weight("pos_embed", (17, 24), publisher) is None
    for count in (1, 16, 18):
        with pytest.raises(PasslError, match=f"it is for {count - 1} tokens"):
            network.adapt_weight("pos_embed", (1, count, 24), publisher)


@pytest.mark.parametrize("publisher", ["unilm", "timm"])
def test_height_and_width_of_a_resized_table_keep_apart(publisher):
    network = build_backbone({"name": "Beit", **TINY, "img_size": [32, 72]})
    rows, _ = np.mgrid[-4:5, -4:5]
    table = np.concatenate([np.tile(rows.reshape(-1, 1), 3) * [1, 2, 3], np.ones((3, 3))])
    change, _ = network.adapt_weight(
        "blocks.0.attn.relative_position_bias_table", table.shape, publisher
    )
    new = change(table)
    assert new.shape == (7 * 17 + 3, 3)
    grid = new[:-3].reshape(7, 17, 3)
    np.testing.assert_allclose(grid, np.broadcast_to(grid[:, :1], grid.shape), atol=1e-9)
    np.testing.assert_allclose(grid[..., 2], 3 * grid[..., 0], atol=1e-9)
    assert (np.diff(grid[:, 0, 0]) > 0).all() and grid[3, 0, 0] == pytest.approx(0, abs=1e-9)


def test_a_table_of_no_square_window_is_refused(tmp_path):
    safetensors.write(
        str(tmp_path / "x"), in_unilms_names(tiny(img_size=[16, 40])), {"format": "pt"}
    )
    with pytest.raises(PasslError, match="30 rows, which are not those of a square window"):
        load_weights(tiny(), tmp_path / "x")


def test_what_was_only_pre_trained_serves_another_size(tmp_path):
    source, network = tiny(img_size=32), tiny(img_size=64)
    theirs, table = pretrained_only(source)
    write_under(tmp_path / "x.pth", "model", theirs)
    load_weights(network, tmp_path / "x.pth", new_head=True)
    wanted = resized_table(table, (8, 8), "geometric_cubic", 3)
    for block in network.backbone.blocks:
        np.testing.assert_array_equal(block.attn.relative_position_bias_table.numpy(), wanted)


@pytest.mark.parametrize("publisher", ["unilm", "timm", "passl_v1", "paddlevit"])
def test_files_are_converted_and_back(publisher, tmp_path):
    families = {each: BACKBONES.attribute(each, "released_names", {}) for each in BACKBONES.names()}
    theirs = {n: a for n, a in in_unilms_names(tiny()).items() if "index" not in n}
    if publisher == "passl_v1":
        theirs = {n: a for n, a in in_passls_old_names(tiny()).items() if "index" not in n}
    elif publisher == "paddlevit":
        theirs = in_paddles_layout(theirs)
    suffix = "pth" if publisher in ("unilm", "timm") else "pdparams"
    file, own, back = (tmp_path / f"{n}.{suffix}" for n in ("theirs", "own", "back"))
    own = own.with_suffix(".safetensors")
    if publisher == "unilm":
        write_under(file, "model", theirs)
    elif publisher == "timm":
        torch.write(str(file), theirs)
    else:
        paddle.save(theirs, str(file))
    assert convert_weights(file, own, families).source == publisher
    convert_weights(own, back, families, publisher)
    with WeightFile(back) as found:
        assert found.tensors.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(found.tensors[name].read(), array)


def test_its_head_starts_a_thousandth_as_large():
    paddle.seed(0)
    head = build_head({"name": "ClassificationHead", "in_channels": 512, "init": "normal"})
    small = build_head(
        {"name": "ClassificationHead", "in_channels": 512, "init": "normal", "init_scale": 0.001}
    )
    assert head.fc.weight.numpy().std() == pytest.approx(0.02, rel=0.01)
    assert small.fc.weight.numpy().std() == pytest.approx(2e-5, rel=0.01)
    assert not small.fc.bias.numpy().any()
    with pytest.raises(PasslError, match="init_scale is a number from 0 on, and goes with init="):
        build_head({"name": "ClassificationHead", "in_channels": 8, "init_scale": 0.5})
