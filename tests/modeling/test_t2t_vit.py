"""T2T-ViT: sizes, what it refuses, how it starts, what it is made of, and whose files it reads."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from rounding_autocast import RoundingAutocast

import passl
from passl.engine.execution import recompute_blocks
from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.backbones.t2t_vit import (
    TokenPerformer,
    TokenTransformer,
    sinusoid_positions,
    soft_split,
)
from passl.solver import WeightAverage, build_optimizer
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights
from passl.weights.converting import convert_weights
from passl.weights.formats import torch

# With an MLP ratio of 3, the maps to queries, keys and values have the MLPs' shape.
TINY = {
    "name": "T2tVit",
    "img_size": [32, 48],
    "embed_dim": 12,
    "num_blocks": 4,
    "num_heads": 3,
    "token_dim": 8,
}
KINDS = ("performer", "transformer")
FROZEN = {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}


def tiny(classes=5, seed=3, **arguments):
    """A small network, every number of which that learns is random; ``w`` and positions stay."""
    cfg = {**TINY, **arguments}
    paddle.seed(seed)
    network = passl.create_model(cfg.pop("name"), num_classes=classes, **cfg)
    for parameter in network.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    network.eval()
    return network


def pixels(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# ------------------------------------------------ sizes


# The authors' code, 1000 classes: all parameters, and those that learn.
PARAMETERS = {
    "t2t_vit_7_224": (4310222, 4255694),
    "t2t_vit_10_224": (5889230, 5834702),
    "t2t_vit_12_224": (6941902, 6887374),
    "t2t_vit_14_224": (21545550, 21465806),
    "t2t_vit_14_384": (21691470, 21465806),
    "t2t_vit_19_224": (39177422, 39085070),
    "t2t_vit_24_224": (64105934, 64000974),
    "t2t_vit_t_14_224": (21541070, 21465422),
    "t2t_vit_t_19_224": (39172942, 39084686),
    "t2t_vit_t_24_224": (64101454, 64000590),
}


def test_every_variant_has_a_number():
    assert {name for name in BACKBONES.names() if name.startswith("t2t_")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_network_has_exactly_its_parameters(name):
    """From the shapes alone: one block is built and counted as many times as there are."""
    blocks = BACKBONES.arguments(name)["num_blocks"].default
    one = passl.create_model(name, num_classes=1000, num_blocks=1)
    found = []
    for counted in (lambda _: True, lambda p: not p.stop_gradient):
        sizes = {key: math.prod(p.shape) for key, p in one.named_parameters() if counted(p)}
        block = sum(size for key, size in sizes.items() if ".blocks.0." in key)
        found.append(sum(sizes.values()) + (blocks - 1) * block)
    assert tuple(found) == PARAMETERS[name]


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_the_maps_of_the_stages_are_the_patches_in_their_places(tokens):
    network = tiny(tokens=tokens, stage_blocks=[1, 4]).backbone
    images = pixels(2, 3, 32, 48)
    first, last = network.forward_stages(images)
    assert first.shape == last.shape == [2, 12, 2, 3]
    assert network.stage_channels == [12, 12] and network.stage_strides == [16, 16]
    features = network.forward_features(images)
    assert features.shape == [2, 7, 12] and network.num_features == 12
    normed = network.norm(last.flatten(2).transpose([0, 2, 1]))
    np.testing.assert_allclose(normed, features[:, 1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(network(images), features[:, 0])
    expected = network.blocks[0](network._embedded(images))[:, 1:]
    np.testing.assert_array_equal(first.flatten(2).transpose([0, 2, 1]), expected)
    assert len(tiny().backbone.forward_stages(images)) == 4


@pytest.mark.smoke
def test_a_network_of_the_paper_takes_a_batch_of_one():
    network = build_backbone({"name": "t2t_vit_7_224", "img_size": [32, 64], "num_blocks": 8})
    network.eval()
    assert network(pixels(1, 3, 32, 64)).shape == [1, 256]
    maps = network.forward_stages(pixels(1, 3, 32, 64))
    assert [m.shape for m in maps] == [[1, 256, 2, 4]] * 4 and network._ends == (2, 4, 6, 8)


@pytest.mark.parametrize("arguments, words", [
    ({"num_heads": 5}, "5 attention heads do not divide 12 channels"),
    ({"tokens": "convolution"}, "tokens is 'performer' or 'transformer', not 'convolution'"),
    ({"img_size": 40}, "multiples of 16, not 40×40"),
    ({"img_size": [32, 0]}, "img_size is one positive number"),
    ({"token_dim": 1}, "token_dim must be at least 2, not 1"),
    ({"in_channels": 0}, "in_channels must be at least 1"),
    ({"num_blocks": 0}, "num_blocks must be at least 1"),
    ({"mlp_ratio": 0.05}, "mlp_ratio must be at least 1"),
    ({"stage_blocks": [2, 1]}, "rising numbers from 1 to 4"),
    ({"drop_rate": 1.0}, "drop_rate lies in"),
    ({"attention_drop_rate": -0.1}, "drop_rate lies in"),
    ({"drop_path_rate": 1.0}, "drop_path_rate lies in"),
], ids=lambda value: "".join(value) if isinstance(value, dict) else "")  # fmt: skip
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({**TINY, **arguments})


@pytest.mark.parametrize("shape, words", [
    ([1, 3, 48, 32], "built for images of 32×48 .* but got 48×32"),
    ([1, 4, 32, 48], "build the network with in_channels=4"),
], ids=["size", "channels"])  # fmt: skip
def test_another_image_is_refused(shape, words):
    with pytest.raises(PasslError, match=words):
        tiny()(pixels(*shape))


# ------------------------------------------------ what it computes


@pytest.mark.smoke
@pytest.mark.parametrize("size, stride, padding", [(7, 4, 2), (3, 2, 1)])
def test_a_soft_split_lists_windows_channel_by_channel(size, stride, padding):
    images = pixels(2, 3, 8, 12).numpy()
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    found = soft_split(paddle.to_tensor(images), size, stride, padding).numpy()
    rows, columns = 8 // stride, 12 // stride
    assert found.shape == (2, rows * columns, 3 * size * size)
    for row in range(rows):
        for column in range(columns):
            y, x = row * stride, column * stride
            window = padded[:, :, y : y + size, x : x + size].reshape(2, -1)
            np.testing.assert_array_equal(found[:, row * columns + column], window)


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_tokens_are_laid_out_as_a_map_row_by_row(tokens):
    module = tiny(tokens=tokens).backbone.tokens_to_token
    images = pixels(2, 3, 32, 48)
    found = module.attention1(soft_split(images, 7, 4, 2)).numpy()
    for rows, layer in ((8, module.attention2), (4, module.project)):
        laid_out = np.zeros((2, 8, rows, rows * 3 // 2), np.float32)
        for row in range(rows):
            for column in range(rows * 3 // 2):
                laid_out[:, :, row, column] = found[:, row * (rows * 3 // 2) + column]
        found = layer(soft_split(paddle.to_tensor(laid_out), 3, 2, 1)).numpy()
    np.testing.assert_allclose(module(images), found, rtol=1e-5, atol=1e-5)
    assert found.shape == (2, 2 * 3, 12) and module.grid == (2, 3)


def weights_of(layer):
    return {name: tensor.numpy() for name, tensor in layer.state_dict().items()}


def normalised(x, scale, shift):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def mlp_after(x, w, first, second):
    hidden = normalised(x, w["norm2.weight"], w["norm2.bias"])
    hidden = hidden @ w[f"mlp.{first}.weight"] + w[f"mlp.{first}.bias"]
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return x + hidden @ w[f"mlp.{second}.weight"] + w[f"mlp.{second}.bias"]


def random_layer(kind):
    paddle.seed(0)
    layer = kind(20, 8).to(dtype="float64")
    for parameter in layer.parameters():
        if not parameter.stop_gradient:
            parameter.set_value(paddle.randn(parameter.shape, dtype="float64") * 0.4)
    layer.eval()
    return layer, np.random.default_rng(1).normal(size=(2, 5, 20))


@pytest.mark.smoke
def test_a_performer_is_what_the_authors_code_computes():
    """Token by token, in float64: keys come first of the three, and the values are the residual."""
    layer, x = random_layer(TokenPerformer)
    w = weights_of(layer)
    joint = normalised(x, w["norm1.weight"], w["norm1.bias"]) @ w["kqv.weight"] + w["kqv.bias"]
    k, q, v = joint[..., :8], joint[..., 8:16], joint[..., 16:]

    def features(token):
        return np.exp(w["w"] @ token - token @ token / 2) / math.sqrt(4)

    mixed = np.zeros_like(v)
    for n in range(2):
        for t in range(5):
            shares = [features(q[n, t]) @ features(k[n, other]) for other in range(5)]
            mixed[n, t] = np.array(shares) @ v[n] / (np.sum(shares) + 1e-8)
    expected = mlp_after(v + mixed @ w["proj.weight"] + w["proj.bias"], w, 0, 2)
    np.testing.assert_allclose(layer(paddle.to_tensor(x)), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.smoke
def test_a_token_transformer_is_what_the_authors_code_computes():
    """One head; the scale is of the channels that come in, 20 and not 8."""
    layer, x = random_layer(TokenTransformer)
    w = weights_of(layer)
    joint = normalised(x, w["norm1.weight"], w["norm1.bias"]) @ w["attn.qkv.weight"]
    q, k, v = joint[..., :8], joint[..., 8:16], joint[..., 16:]
    scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(20))
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    expected = mlp_after(v + mixed @ w["attn.proj.weight"] + w["attn.proj.bias"], w, "fc1", "fc2")
    np.testing.assert_allclose(layer(paddle.to_tensor(x)), expected, rtol=1e-11, atol=1e-11)


def test_positions_are_sines_and_cosines_in_turn():
    """The authors' code, get_sinusoid_encoding; the class token is the number 0."""
    found = sinusoid_positions(197, 256)
    np.testing.assert_array_equal(found[0], [0, 1] * 128)
    near = {"rtol": 0, "atol": 5e-5}
    np.testing.assert_allclose(found[1, :4], [0.8415, 0.5403, 0.8020, 0.5974], **near)
    np.testing.assert_allclose(found[1, -2:], [1.0746e-4, 1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[196, :4], [0.939530, 0.342466, 0.178780, 0.983889], **near)
    np.testing.assert_allclose(found[196, -2:], [0.0210608, 0.9997782], rtol=0, atol=5e-8)
    assert found.sum() == pytest.approx(16111.464, abs=5e-4)
    network = build_backbone({"name": "t2t_vit_7_224", "num_blocks": 1})
    np.testing.assert_allclose(network.pos_embed[0], found, rtol=0, atol=1e-7)


@pytest.mark.full
@pytest.mark.parametrize("tokens", KINDS)
def test_the_order_of_the_random_features_alone_does_not_matter(tokens):
    """Every other array does: transposed where it is square, else turned around."""
    network = tiny(tokens=tokens)
    images = pixels(2, 3, 32, 48)
    right = network(images).numpy()
    squares = 0
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        if values.ndim == 2 and values.shape[0] == values.shape[1]:
            wrong, squares = values.T, squares + 1
        elif name.endswith(".w"):
            wrong = values[::-1]
        else:
            wrong = values.reshape(-1)[::-1].reshape(values.shape)
        parameter.set_value(wrong.copy())
        difference = np.abs(network(images).numpy() - right).max()
        assert (difference < 1e-5) == name.endswith(".w"), (name, difference)
        parameter.set_value(values)
    assert squares == 10  # three of each token layer, and the projection of each block


def test_maps_of_one_shape_do_not_stand_for_each_other():
    network = tiny()
    images = pixels(2, 3, 32, 48)
    right = network(images).numpy()
    block = network.backbone.blocks[1]
    one, other = block.attn.qkv.weight, block.mlp.fc1.weight
    assert one.shape == other.shape == [12, 36]
    held = one.numpy(), other.numpy()
    one.set_value(held[1])
    other.set_value(held[0])
    assert np.abs(network(images).numpy() - right).max() > 1e-2


# ------------------------------------------------ how it starts and learns


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["t2t_vit_14_224", "t2t_vit_t_14_224"])
def test_the_network_starts_as_its_authors_start_it(name):
    paddle.seed(0)
    network = build_backbone({"name": name, "num_blocks": 2})
    for key, parameter in network.named_parameters():
        values = parameter.numpy()
        if key == "pos_embed":
            continue
        if key.endswith(".w"):
            assert values.shape == (32, 64)
            np.testing.assert_allclose(values @ values.T, 32 * np.eye(32), atol=1e-3)
        elif "norm" in key:
            assert (values == (1 if key.endswith("weight") else 0)).all(), key
        elif key.endswith("bias"):
            assert not values.any(), key
        else:
            assert values.std() == pytest.approx(0.02, rel=0.1), key
    biased = {key.rpartition(".")[0] for key in network.state_dict() if key.endswith(".bias")}
    assert not {key for key in biased if "qkv" in key}
    one, other = network.blocks[0].attn.qkv.weight, network.blocks[1].attn.qkv.weight
    assert not np.array_equal(one, other)


def test_random_features_differ_from_layer_to_layer_and_from_seed_to_seed():
    one, other = (tiny(seed=seed).backbone.tokens_to_token for seed in (0, 1))
    assert not np.array_equal(one.attention1.w, other.attention1.w)
    assert not np.array_equal(one.attention1.w, one.attention2.w)
    np.testing.assert_array_equal(
        tiny(seed=0).backbone.tokens_to_token.attention1.w, one.attention1.w
    )


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_depths_and_decay_are_the_authors(tokens):
    network = tiny(tokens=tokens).backbone
    depths = network.parameter_depths
    assert depths.keys() == {name for name, _ in network.named_parameters()}
    for name, depth in depths.items():
        first, _, rest = name.partition(".")
        expected = {"tokens_to_token": 0, "cls_token": 0, "pos_embed": 0, "norm": 4}.get(first)
        assert depth == (int(rest[0]) + 1 if expected is None else expected), name
    assert network.no_weight_decay == {"cls_token"}


def config(tokens, **arguments):
    head = {"name": "ClassificationHead", "num_classes": 3, "init": "lecun_normal"}
    return {"architecture": {**TINY, "tokens": tokens, **arguments}, "head": head}


def batch():
    return {"image": pixels(3, 3, 32, 48), "label": paddle.to_tensor([0, 2, 1])}


def gradients_of(model):
    model.clear_gradients()
    paddle.seed(7)
    model(batch())["loss"].backward()
    return {n: None if p.grad is None else p.grad.numpy() for n, p in model.named_parameters()}


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_what_learns_gets_a_gradient_and_nothing_else_does(tokens):
    paddle.seed(0)
    model = build_architecture(config(tokens))
    frozen = {f"backbone.{name}" for name in FROZEN if tokens == "performer" or "." not in name}
    for name, gradient in gradients_of(model).items():
        assert (gradient is None) == (name in frozen), name
        assert gradient is None or np.abs(gradient).max() > 0, name


@pytest.mark.parametrize("tokens", KINDS)
def test_blocks_can_be_computed_twice(tokens):
    """In training, with the performers' dropout; the first block's input needs no gradient."""
    if paddle.__version__.startswith("2."):
        pytest.skip("PaddlePaddle 2 recomputes on a GPU alone")
    paddle.seed(0)
    model = build_architecture(config(tokens))
    plain = gradients_of(model)
    blocks = [layer for layer in model.sublayers() if getattr(layer, "recompute", False)]
    assert len(blocks) == 2 + 4
    recompute_blocks(model)
    again = gradients_of(model)
    for name, gradient in plain.items():
        if gradient is None:
            assert again[name] is None, name
        else:
            np.testing.assert_allclose(again[name], gradient, rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("tokens", KINDS)
def test_a_step_changes_all_but_what_is_fixed(tokens):
    """Weight decay and the moving average too leave it alone, and the state holds it."""
    paddle.seed(0)
    model = build_architecture(config(tokens))
    fixed = {f"backbone.{name}" for name in FROZEN if tokens == "performer" or "." not in name}
    before = weights_of(model)
    assert fixed <= before.keys()
    average = WeightAverage(model, 0.5, warmup=False)
    optimizer = build_optimizer({"name": "AdamW", "weight_decay": 0.5}, model)
    gradients_of(model)
    optimizer.step(0.1)
    average.update(1, optimizer.weights())
    unchanged = {n for n, array in weights_of(model).items() if np.array_equal(array, before[n])}
    assert unchanged == fixed
    assert before.keys() - average.tensors().keys() == fixed


@pytest.mark.smoke
def test_performers_drop_while_they_learn_and_never_else():
    """A tenth, after the projection and after the MLP, also where drop_rate is 0."""
    network = tiny().backbone
    images = pixels(2, 3, 32, 48)
    np.testing.assert_array_equal(network(images), network(images))
    network.train()
    assert not np.array_equal(network(images), network(images))
    layer = TokenPerformer(20, 64)
    x = pixels(4, 50, 20)
    values = layer.kqv(x).split(3, axis=-1)[2]
    dropped = (layer.attention(x) - values).numpy() == 0
    assert dropped.mean() == pytest.approx(0.1, abs=0.01)
    after = layer.mlp(layer.attention(x)).numpy() == 0
    assert after.mean() == pytest.approx(0.1, abs=0.01)
    layer.eval()
    assert not ((layer.attention(x) - values).numpy() == 0).any()
    transformer = tiny(tokens="transformer").backbone
    transformer.train()
    np.testing.assert_array_equal(transformer(images), transformer(images))


def test_each_dropout_of_the_backbone_has_the_rate():
    network = tiny(tokens="transformer", drop_rate=0.5).backbone
    network.train()
    block, x = network.blocks[1], pixels(40, 7, 12)
    for values in (network._embedded(pixels(20, 3, 32, 48)), block.attn(x), block.mlp(x)):
        assert (values.numpy() == 0).mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("argument", ["drop_rate", "attention_drop_rate", "drop_path_rate"])
def test_what_is_random_in_the_backbone_acts_in_training_alone(argument):
    network = tiny(tokens="transformer", **{argument: 0.5}).backbone
    images = pixels(4, 3, 32, 48)
    np.testing.assert_array_equal(network(images), network(images))
    network.train()
    assert not np.array_equal(network(images), network(images))


def test_stochastic_depth_rises_and_is_drawn_for_each_image():
    network = tiny(tokens="transformer", drop_path_rate=0.6).backbone
    np.testing.assert_allclose([b.drop_path.rate for b in network.blocks], [0, 0.2, 0.4, 0.6])
    block = network.blocks[3]
    block.train()
    x = paddle.tile(pixels(1, 7, 12), [64, 1, 1])
    paddle.seed(0)
    kinds = {tuple(image.reshape(-1).round(4).tolist()) for image in block(x).numpy()}
    assert len(kinds) == 4  # each of both branches is there or not


# ------------------------------------------------ other ways to compute it


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_a_static_program_gives_the_same(tokens):
    network = tiny(tokens=tokens)
    images = pixels(2, 3, 32, 48)
    eager = network(images).numpy()
    spec = paddle.static.InputSpec([None, 3, 32, 48], "float32")
    program = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    np.testing.assert_allclose(program(images), eager, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(images[:1]), eager[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("tokens", KINDS)
def test_a_static_program_learns_the_same(tokens):
    """In training, but without the performers' dropout, whose draws differ."""
    found = []
    for static in (False, True):
        paddle.seed(0)
        model = build_architecture(config(tokens))
        for layer in model.sublayers():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        if static:
            model.forward = paddle.jit.to_static(model.forward, full_graph=True)
        found.append(gradients_of(model))
    eager, static = found
    for name, gradient in eager.items():
        if gradient is None:
            assert static[name] is None or not static[name].any(), name
        else:
            np.testing.assert_allclose(static[name], gradient, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("tokens", KINDS)
def test_float64_is_kept_from_end_to_end(tokens):
    network = tiny(tokens=tokens)
    images = pixels(2, 3, 32, 48)
    single = network(images).numpy()
    network.to(dtype="float64")
    double = network(images.astype("float64"))
    assert double.dtype == paddle.float64
    np.testing.assert_allclose(double, single, rtol=1e-4, atol=1e-5)
    difference = np.abs(double.numpy() - double.astype("float32").astype("float64").numpy()).max()
    assert difference > 0, "computed in float32 on the way"


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_what_float16_cannot_hold_is_computed_in_float32(monkeypatch, dtype, level):
    """Queries and keys along a random direction: φ is e^16 / √32, 1.6 million, for all tokens."""
    if dtype == "float16" and paddle.__version__.startswith("2."):
        pytest.skip("PaddlePaddle 2 has no dropout of float16 on a processor")
    paddle.seed(0)
    layer = TokenPerformer(20, 64)
    layer.eval()
    layer.kqv.weight.set_value(paddle.randn([20, 192]) * 0.01)
    layer.kqv.bias.set_value(paddle.concat([layer.w[0], layer.w[0], paddle.randn([64])]))
    x = pixels(2, 50, 20)
    exact = layer(x).numpy()
    assert float(layer.features(layer.w[:1].unsqueeze(0)).max()) > 1e6
    RoundingAutocast(monkeypatch)
    if level == "O2":
        for parameter in layer.parameters():
            if not parameter.stop_gradient and parameter.ndim > 1:
                parameter.set_value(parameter.astype(dtype).astype("float32"))
        x = x.astype(dtype)
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        found = layer(x).astype("float32").numpy()
    error = np.abs(found - exact).max() / np.abs(exact).max()
    assert error < (0.01 if dtype == "float16" else 0.05), error


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_leaves_the_performers_products_alone(dtype):
    """``bmm`` is on none of its lists, so that it is computed in the widest of its types."""
    for level in ("O1", "O2"):
        white, black = paddle.amp.white_list(), paddle.amp.black_list()
        assert "matmul" in white[dtype][level]
        assert "bmm" not in white[dtype][level] | black[dtype][level]


# ------------------------------------------------ what released files hold


def in_yitus_names(network):
    """models/t2t_vit.py and token_performer.py, by hand: torch's layout, but w is no layer's."""
    theirs = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        name = {"head.fc.weight": "head.weight", "head.fc.bias": "head.bias"}.get(name, name)
        name = name[len("backbone.") :] if name.startswith("backbone.") else name
        layer = name.rpartition(".")[2]
        theirs[name] = array.T.copy() if layer == "weight" and array.ndim == 2 else array
    return theirs


def in_passls_old_names(network):
    """PASSL 1.1, modeling/backbones/t2t_vit.py; the head is another part of it."""
    theirs = {}
    for name, tensor in network.state_dict().items():
        theirs[name.replace("head.fc.", "head.fc_cls.")] = tensor.numpy()
    return theirs


def in_paddlevits_names(network):
    """image_classification/T2T_ViT/t2t_vit.py."""
    theirs = {}
    for name, tensor in network.state_dict().items():
        for ours, there in (
            ("backbone.", ""), ("head.fc.", "head."),
            ("tokens_to_token.attention1.", "patch_embed.attn1."),
            ("tokens_to_token.attention2.", "patch_embed.attn2."),
            ("tokens_to_token.project.", "patch_embed.proj."),
        ):  # fmt: skip
            name = name.replace(ours, there)
        theirs[name] = tensor.numpy()
    return theirs


PUBLISHED = {
    "yitu": in_yitus_names,
    "passl_v1": in_passls_old_names,
    "paddlevit": in_paddlevits_names,
}


def saved(publisher, network, folder):
    theirs = PUBLISHED[publisher](network)
    file = folder / ("x.pth" if publisher == "yitu" else "x.pdparams")
    if publisher == "yitu":
        torch.write(str(file), theirs)
    else:
        paddle.save(theirs, str(file))
    return file


NAMES = {  # some of the authors', one of each kind
    "performer": {
        "cls_token": [1, 1, 12], "pos_embed": [1, 7, 12],
        "tokens_to_token.attention1.w": [4, 8], "tokens_to_token.attention2.kqv.weight": [24, 72],
        "tokens_to_token.attention2.kqv.bias": [24], "tokens_to_token.project.weight": [12, 72],
        "tokens_to_token.attention1.mlp.0.weight": [8, 8],
        "tokens_to_token.attention2.mlp.2.bias": [8],
        "blocks.3.attn.qkv.weight": [36, 12], "blocks.0.mlp.fc1.bias": [36], "head.weight": [5, 12],
    },
    "transformer": {
        "tokens_to_token.attention1.attn.qkv.weight": [24, 147],
        "tokens_to_token.attention1.mlp.fc1.weight": [8, 8],
        "tokens_to_token.attention2.attn.proj.bias": [8],
        "tokens_to_token.attention2.norm2.weight": [8], "norm.bias": [12],
    },
}  # fmt: skip
# The authors' state dicts: 111 tensors with 7 blocks, 184 (transformer) with 14; 11 a block.
COUNTS = {"performer": 111 - 3 * 11, "transformer": 184 - 10 * 11}


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
@pytest.mark.parametrize("publisher", PUBLISHED)
def test_files_of_every_publisher_are_read(publisher, tokens, tmp_path):
    source = tiny(tokens=tokens)
    theirs = in_yitus_names(source)
    assert len(theirs) == COUNTS[tokens]
    assert {name: list(theirs[name].shape) for name in NAMES[tokens]} == NAMES[tokens]
    file = saved(publisher, source, tmp_path)
    network = tiny(tokens=tokens, seed=4)
    images = pixels(2, 3, 32, 48)
    assert not np.allclose(network(images), source(images), atol=1e-2)
    report = load_weights(network, file)
    assert report.publisher == publisher and len(report.loaded) == len(theirs)
    assert not report.kept and not report.left_out
    np.testing.assert_array_equal(network(images), source(images))
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor, source.state_dict()[name], err_msg=name)


@pytest.mark.smoke
@pytest.mark.parametrize("tokens", KINDS)
def test_files_are_told_apart_and_converted(tokens, tmp_path):
    """Families share names; there and back again every weight is as it was."""
    families = {each: BACKBONES.attribute(each, "released_names", {}) for each in BACKBONES.names()}
    file = saved("yitu", tiny(tokens=tokens), tmp_path)
    own, old, back = (tmp_path / name for name in ("own.safetensors", "old.pdparams", "back.pth"))
    assert convert_weights(file, own, families).source == "yitu"
    convert_weights(own, old, families, "passl_v1")
    convert_weights(old, back, families, "yitu")
    with WeightFile(file) as theirs, WeightFile(back) as ours:
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, tensor in theirs.tensors.items():
            np.testing.assert_array_equal(ours.tensors[name].read(), tensor.read(), err_msg=name)


def test_the_moving_average_is_taken(tmp_path, messages):
    """As timm's saver writes it: the average beside the weights, which are others."""
    weights, average = tiny(seed=5), tiny(seed=6)
    arrays = {
        "epoch": 300,
        "state_dict": in_yitus_names(weights),
        "state_dict_ema": in_yitus_names(average),
    }
    for group in ("state_dict", "state_dict_ema"):  # Paddle's container is read in torch's layout
        arrays[group] = {
            name: array.T.copy() if name.endswith("weight") and array.ndim == 2 else array
            for name, array in arrays[group].items()
        }
    paddle.save(arrays, str(tmp_path / "x.pdparams"))
    network = tiny()
    images = pixels(2, 3, 32, 48)
    load_weights(network, tmp_path / "x.pdparams")
    np.testing.assert_array_equal(network(images), average(images))
    assert any("state_dict_ema" in line for line in messages())
    load_weights(network, tmp_path / "x.pdparams", key="state_dict")
    np.testing.assert_array_equal(network(images), weights(images))


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_positions_for_another_size_are_computed_anew(dtype, tmp_path, messages):
    theirs = {name: a.astype(dtype) for name, a in in_yitus_names(tiny()).items()}
    torch.write(str(tmp_path / "x.pth"), theirs)
    network = tiny(img_size=[64, 32])
    positions = network.backbone.pos_embed.numpy()
    report = load_weights(network, tmp_path / "x.pth")
    assert "backbone.pos_embed" in report.loaded and not report.kept
    atol = 1e-3 if dtype == np.float16 else 0
    np.testing.assert_allclose(network.backbone.pos_embed, positions, rtol=0, atol=atol)
    assert any("positions of 6 patches computed anew for 4×2" in line for line in messages())


def test_positions_that_were_learned_are_kept_or_refused(tmp_path):
    """PASSL 1 trains them; then they are weights as all others, for one size of images."""
    source = tiny()
    source.backbone.pos_embed.set_value(paddle.randn([1, 7, 12]))
    torch.write(str(tmp_path / "x.pth"), in_yitus_names(source))
    network = tiny(seed=4)
    load_weights(network, tmp_path / "x.pth")
    np.testing.assert_array_equal(network.backbone.pos_embed, source.backbone.pos_embed)
    with pytest.raises(PasslError, match="6 positions have been learned.*img_size of the file"):
        load_weights(tiny(img_size=64), tmp_path / "x.pth")


@pytest.mark.parametrize("name, shape", [
    ("pos_embed", (1, 7, 24)), ("pos_embed", (7, 12)), ("pos_embed", (2, 7, 12)),
    ("cls_token", (1, 2, 12)), ("tokens_to_token.attention1.w", (8, 8)),
])  # fmt: skip
def test_other_differences_are_not_explained_by_the_image_size(name, shape):
    assert tiny().backbone.adapt_weight(name, shape, "yitu") is None
