"""ViT and DeiT: sizes, what they refuse, how they start, what they are made of."""

import math

import numpy as np
import paddle
import pytest
from paddle import nn
from publishers import write_under

import passl
from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES, build_backbone
from passl.modeling.layers import attention, resized_grid
from passl.utils.errors import PasslError
from passl.weights import load_weights
from passl.weights.formats import npz, safetensors, torch

TINY = {
    "img_size": [24, 32],
    "patch_size": 8,
    "embed_dim": 24,
    "num_blocks": 4,
    "num_heads": 3,
}


def tiny(name="VisionTransformer", classes=5, **arguments):
    network = passl.create_model(name, num_classes=classes, **{**TINY, **arguments})
    paddle.seed(3)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    return network


def pixels(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# Every row of the papers' and timm's tables, 1000 classes.
PARAMETERS = {
    "vit_ti16_224": 5717416, "vit_ti16_384": 5790376, "vit_s32_224": 22878952,
    "vit_s32_384": 22915432, "vit_s16_224": 22050664, "vit_s16_384": 22196584,
    "vit_b32_224": 88224232, "vit_b32_384": 88297192, "vit_b16_224": 86567656,
    "vit_b16_384": 86859496, "vit_b8_224": 86576872, "vit_l32_224": 306535400,
    "vit_l32_384": 306632680, "vit_l16_224": 304326632, "vit_l16_384": 304715752,
    "vit_l16_512": 305174504, "vit_l14_224": 304203752, "vit_h14_224": 632045800,
    "vit_h14_378": 632651240,
    "deit_ti16_224": 5717416, "deit_s16_224": 22050664, "deit_b16_224": 86567656,
    "deit_b16_384": 86859496, "deit_ti16_distilled_224": 5910800,
    "deit_s16_distilled_224": 22436432, "deit_b16_distilled_224": 87338192,
    "deit_b16_distilled_384": 87630032,
}  # fmt: skip


def test_every_variant_has_a_number():
    names = {name for name in BACKBONES.names() if name.startswith(("vit_", "deit_"))}
    assert names == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_network_has_exactly_its_parameters(name):
    with paddle.LazyGuard():  # the shapes are enough
        network = passl.create_model(name, num_classes=1000)
    assert sum(math.prod(p.shape) for p in network.parameters()) == PARAMETERS[name]


def test_the_original_networks_have_a_further_layer():
    network = tiny(representation_size=10)
    assert network.num_features == 10 and network.head.fc.weight.shape == [10, 5]
    features = Network.forward(tiny(classes=0, representation_size=10), pixels(2, 3, 24, 32))
    assert features.shape == [2, 10] and float(features.abs().max()) <= 1.0, "tanh"


@pytest.mark.smoke
@pytest.mark.parametrize("pool, tokens", [("token", 13), ("mean", 12)])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_pooling_and_positions(pool, tokens, positions):
    network = tiny(pool=pool, positions=positions)
    images = pixels(2, 3, 24, 32)
    features = network.forward_features(images)
    assert features.shape == [2, tokens, 24]
    pooled = features[:, 0] if pool == "token" else features.mean(axis=1)
    np.testing.assert_allclose(network.head(pooled), network(images), rtol=1e-5, atol=1e-5)
    learned = {name for name, _ in network.backbone.named_parameters()}
    assert ("pos_embed" in learned) == (positions == "learned")
    assert ("cls_token" in learned) == (pool == "token")
    assert ("backbone.pos_embed" in network.state_dict()) == (positions == "learned")
    assert network.backbone.no_weight_decay == learned & {"pos_embed", "cls_token"}


def test_without_positions_the_order_of_the_patches_would_not_matter():
    """The attention is one of sets; positions alone tell where a patch was."""
    for positions, same in (("none", True), ("sincos", False)):
        network = tiny(pool="mean", positions="sincos")
        if positions == "none":
            network.backbone.pos_embed.set_value(paddle.zeros_like(network.backbone.pos_embed))
        images = pixels(1, 3, 24, 32)
        turned = paddle.concat([images[:, :, 8:], images[:, :, :8]], axis=2)
        equal = np.allclose(network(images), network(turned), atol=1e-4)
        assert equal == same


@pytest.mark.smoke
def test_the_attention_is_the_formula_of_the_paper():
    """Equation 1 of arXiv 1706.03762, head by head, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 12))
    layer = attention.Attention(12, 3)
    layer.to(dtype="float64")
    w, b = (rng.normal(size=s) for s in ((12, 36), (36,)))
    layer.qkv.weight.set_value(w)
    layer.qkv.bias.set_value(b)
    out_w, out_b = layer.proj.weight.numpy(), layer.proj.bias.numpy()
    bias = rng.normal(size=(3, 5, 5))
    for given in (None, bias):
        wanted = np.zeros((2, 5, 12))
        q, k, v = np.split(x @ w + b, 3, axis=-1)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            scores = q[..., part] @ k[..., part].swapaxes(1, 2) / 2.0
            scores = scores + (0 if given is None else given[head])
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            wanted[..., part] = weights @ v[..., part]
        wanted = wanted @ out_w + out_b
        found = layer(paddle.to_tensor(x), None if given is None else paddle.to_tensor(given))
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_fused_attention_gives_the_same():
    q, k, v = (pixels(2, 3, 7, 8, seed=i) for i in range(3))
    try:
        fused = attention._fused(q, k, v, 0.2)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this Paddle has no such operation on a processor: {str(error)[:80]}")
    plain = attention._by_formula(q, k, v, 0.2, None)
    np.testing.assert_allclose(fused, plain, rtol=1e-5, atol=1e-6)


def test_dropout_of_attention_weights_acts_in_training_alone():
    layer = attention.Attention(12, 3, attention_dropout=0.5)
    x = pixels(2, 5, 12)
    layer.eval()
    assert np.array_equal(layer(x), layer(x))
    layer.train()
    assert not np.array_equal(layer(x), layer(x))


@pytest.mark.parametrize("arguments, words", [
    ({"num_heads": 5}, "5 attention heads do not divide 24 channels"),
    ({"pool": "max"}, "pool is 'token' or 'mean'"),
    ({"positions": "rope"}, "positions is 'learned' or 'sincos'"),
    ({"init": "he"}, "init is 'xavier' or 'normal'"),
    ({"positions": "sincos", "embed_dim": 30}, "multiple of 4 channels"),
    ({"patch_size": 7}, "must divide img_size"),
    ({"stage_blocks": [2, 1]}, "rising numbers from 1 to 4"),
    ({"stage_blocks": [5]}, "rising numbers from 1 to 4"),
    ({"mlp_ratio": 0.0}, "mlp_ratio must be at least 1"),
    ({"drop_rate": 1.0}, "drop_rate lies in"),
    ({"attention_drop_rate": -0.1}, "drop_rate lies in"),
])  # fmt: skip
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(PasslError, match=words):
        build_backbone({"name": "VisionTransformer", **TINY, **arguments})


def test_another_image_size_is_refused():
    with pytest.raises(PasslError, match="built for images of 24×32 .* but got 32×24"):
        tiny()(pixels(1, 3, 32, 24))


@pytest.mark.smoke
def test_the_maps_of_the_stages_are_the_patches_in_their_places():
    network = tiny(stage_blocks=[1, 4]).backbone
    images = pixels(2, 3, 24, 32)
    first, last = network.forward_stages(images)
    assert first.shape == last.shape == [2, 24, 3, 4]
    assert network.stage_channels == [24, 24] and network.stage_strides == [8, 8]
    normed = network.norm(last.flatten(2).transpose([0, 2, 1]))
    tokens = network.forward_features(images)[:, 1:]
    np.testing.assert_allclose(normed, tokens, rtol=1e-4, atol=1e-5)
    assert len(tiny().backbone.forward_stages(images)) == 4
    distilled = tiny("DistilledVisionTransformer").backbone
    np.testing.assert_allclose(
        distilled.norm(distilled.forward_stages(images)[-1].flatten(2).transpose([0, 2, 1])),
        distilled.forward_features(images)[:, 2:], rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_both_tokens_of_a_distilled_network_answer():
    network = tiny("DistilledVisionTransformer")
    images = pixels(2, 3, 24, 32)
    features = network.forward_features(images)
    one, other = network.head.fc(features[:, 0]), network.head.fc_dist(features[:, 1])
    np.testing.assert_allclose(network(images), (one + other) / 2, rtol=1e-5, atol=1e-5)
    assert network.num_features == 48 and features.shape == [2, 14, 24]
    with pytest.raises(PasslError, match="DistilledHead takes the class and the distillation"):
        Network({"name": "VisionTransformer", **TINY, "embed_dim": 21}, {"name": "DistilledHead"})


@pytest.mark.smoke
def test_depths_and_decay_are_the_authors():
    network = tiny("DistilledVisionTransformer").backbone
    depths = network.parameter_depths
    tokens = {"cls_token", "dist_token", "pos_embed"}
    assert {name for name, depth in depths.items() if depth == 0} == tokens | {
        "stem.proj.weight", "stem.proj.bias",
    }  # fmt: skip
    assert depths["blocks.0.norm1.weight"] == 1 and depths["blocks.3.mlp.fc2.bias"] == 4
    assert depths["norm.weight"] == 4
    assert network.no_weight_decay == tokens
    assert depths.keys() == {name for name, _ in network.named_parameters()}


def test_vit_starts_as_its_authors_start_it():
    paddle.seed(0)
    network = build_backbone({"name": "vit_ti16_224", "num_blocks": 2, "representation_size": 96})
    assert not network.cls_token.numpy().any()
    assert network.pos_embed.numpy().std() == pytest.approx(0.02, rel=0.05)
    block = network.blocks[1]
    for layer, inputs, outputs in (
        (block.attn.qkv, 192, 192), (block.attn.proj, 192, 192),
        (block.mlp.fc1, 192, 768), (block.mlp.fc2, 768, 192),
    ):  # fmt: skip
        bound = math.sqrt(6 / (inputs + outputs))
        weight = layer.weight.numpy()
        assert 0.98 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not block.attn.qkv.bias.numpy().any()
    assert block.mlp.fc1.bias.numpy().std() == pytest.approx(1e-6, rel=0.2)
    stem = network.stem.proj.weight.numpy()
    assert stem.std() == pytest.approx(768**-0.5, rel=0.02) and not network.stem.proj.bias.any()
    assert network.pre_logits.weight.numpy().std() == pytest.approx(192**-0.5, rel=0.02)


def test_deit_starts_as_its_authors_start_it():
    paddle.seed(0)
    network = build_backbone({"name": "deit_ti16_distilled_224", "num_blocks": 2})
    for name, parameter in network.named_parameters():
        values = parameter.numpy()
        if name.endswith(("_token", "pos_embed")) or (values.ndim == 2):
            assert values.std() == pytest.approx(0.02, rel=0.15), name
        elif ".bias" in name and "stem" not in name:
            assert not values.any(), name
    bound = 768**-0.5  # torch's default for a convolution
    for values in (network.stem.proj.weight.numpy(), network.stem.proj.bias.numpy()):
        assert 0.95 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["VisionTransformer", "DistilledVisionTransformer"])
def test_every_parameter_gets_a_gradient(name):
    network = tiny(name)
    network(pixels(3, 3, 24, 32)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, key


def test_a_static_program_gives_the_same():
    network = tiny("DistilledVisionTransformer")
    images = pixels(2, 3, 24, 32)
    eager = network(images).numpy()
    spec = paddle.static.InputSpec([None, 3, 24, 32], "float32")
    program = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    np.testing.assert_allclose(program(images), eager, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program(images[:1]), eager[:1], rtol=1e-4, atol=1e-5)


# What released files hold, written out by hand from the publishers' code.
def in_timms_names(network):
    arrays = {}
    for name, tensor in network.state_dict().items():
        array = tensor.numpy()
        name = name.replace("backbone.", "").replace("stem.proj", "patch_embed.proj")
        name = name.replace("head.fc_dist", "head_dist").replace("head.fc", "head")
        name = name.replace("pre_logits.", "pre_logits.fc.")
        arrays[name] = array.T if array.ndim == 2 else array
    return arrays


def in_googles_names(network):
    arrays = in_timms_names(network)
    heads, width = TINY["num_heads"], TINY["embed_dim"] // TINY["num_heads"]
    theirs = {
        **({"cls": arrays["cls_token"]} if "cls_token" in arrays else {}),
        "embedding/kernel": arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
        "head/kernel": arrays["head.weight"].T,
        "head/bias": arrays["head.bias"],
    }
    if "pre_logits.fc.weight" in arrays:
        theirs["pre_logits/kernel"] = arrays["pre_logits.fc.weight"].T
        theirs["pre_logits/bias"] = arrays["pre_logits.fc.bias"]
    for i in range(len(network.backbone.blocks)):
        ours, there = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention_there = f"{there}/MultiHeadDotProductAttention_1"
        weights = np.split(arrays[f"{ours}.attn.qkv.weight"], 3, axis=0)
        biases = np.split(arrays[f"{ours}.attn.qkv.bias"], 3, axis=0)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases):
            theirs[f"{attention_there}/{part}/kernel"] = weight.T.reshape(-1, heads, width)
            theirs[f"{attention_there}/{part}/bias"] = bias.reshape(heads, width)
        proj = arrays[f"{ours}.attn.proj.weight"].T
        theirs[f"{attention_there}/out/kernel"] = proj.reshape(heads, width, -1)
        theirs[f"{attention_there}/out/bias"] = arrays[f"{ours}.attn.proj.bias"]
        for norm, number in (("norm1", 0), ("norm2", 2)):
            theirs[f"{there}/LayerNorm_{number}/scale"] = arrays[f"{ours}.{norm}.weight"]
            theirs[f"{there}/LayerNorm_{number}/bias"] = arrays[f"{ours}.{norm}.bias"]
        for fc, number in (("fc1", 0), ("fc2", 1)):
            dense = f"{there}/MlpBlock_3/Dense_{number}"
            theirs[f"{dense}/kernel"] = arrays[f"{ours}.mlp.{fc}.weight"].T
            theirs[f"{dense}/bias"] = arrays[f"{ours}.mlp.{fc}.bias"]
    return theirs


def in_big_visions_names(network):
    """Flax's names as modules count today; the class token has no position."""
    theirs = {}
    for name, array in in_googles_names(network).items():
        name = name.replace("Attention_1", "Attention_0").replace("LayerNorm_2", "LayerNorm_1")
        name = name.replace("MlpBlock_3", "MlpBlock_0")
        name = name.replace("Transformer/posembed_input/pos_embedding", "pos_embedding")
        theirs[f"params/{name}"] = array
    return theirs


@pytest.mark.smoke
def test_big_visions_class_token_has_no_position(tmp_path, messages):
    source = tiny(**SQUARE)
    positions = source.backbone.pos_embed.numpy()
    positions[:, 0] = 0.0
    source.backbone.pos_embed.set_value(positions)
    theirs = in_big_visions_names(source)
    theirs["params/pos_embedding"] = theirs["params/pos_embedding"][:, 1:]
    npz.write(str(tmp_path / "x.npz"), theirs)
    network = tiny(**SQUARE)
    report = load_weights(network, tmp_path / "x.npz")
    assert report.publisher == "big_vision" and not report.kept
    assert any("the class token has no position" in line for line in messages())
    images = pixels(2, 3, 16, 16)
    np.testing.assert_array_equal(network(images), source(images))
    larger = tiny(**{**SQUARE, "img_size": [20, 28]})
    load_weights(larger, tmp_path / "x.npz")
    grid = resized_grid(positions[0, 1:].reshape(4, 4, 24), (5, 7), "bilinear_aligned")
    found = larger.backbone.pos_embed.numpy()[0]
    np.testing.assert_allclose(found[1:], grid.reshape(35, 24), rtol=1e-6, atol=1e-7)
    assert not found[0].any()


def in_huggingfaces_names(network, model="vit", distilled=False):
    theirs = {}
    for name, array in in_timms_names(network).items():
        parts = name.split(".")
        if parts[0] == "blocks":
            layer, rest = f"{model}.encoder.layer.{parts[1]}", ".".join(parts[2:-1])
            leaf = parts[-1]
            if rest == "attn.qkv":
                for part, third in zip(("query", "key", "value"), np.split(array, 3, axis=0)):
                    theirs[f"{layer}.attention.attention.{part}.{leaf}"] = third
                continue
            rest = {
                "norm1": "layernorm_before", "norm2": "layernorm_after",
                "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense",
                "mlp.fc2": "output.dense",
            }[rest]  # fmt: skip
            theirs[f"{layer}.{rest}.{leaf}"] = array
        else:
            for ours, there in (
                ("head_dist", "distillation_classifier"),
                ("head", "cls_classifier" if distilled else "classifier"),
                ("norm", f"{model}.layernorm"),
                ("cls_token", f"{model}.embeddings.cls_token"),
                ("dist_token", f"{model}.embeddings.distillation_token"),
                ("pos_embed", f"{model}.embeddings.position_embeddings"),
                ("patch_embed.proj", f"{model}.embeddings.patch_embeddings.projection"),
            ):
                if name == ours or name.startswith(ours + "."):
                    theirs[there + name[len(ours) :]] = array
                    break
    return theirs


def in_paddlevits_names(network):
    theirs = {}
    for name, array in in_timms_names(network).items():
        for ours, there in (
            ("patch_embed.proj", "patch_embedding.patch_embedding"),
            ("pos_embed", "position_embedding"), ("blocks.", "encoder.layers."),
            ("norm1", "attn_norm"), ("norm2", "mlp_norm"), ("attn.proj", "attn.out"),
            ("head_dist", "classifier_dist"), ("head", "classifier"),
        ):  # fmt: skip
            name = name.replace(ours, there)
        name = f"encoder.encoder_{name}" if name.startswith("norm.") else name
        theirs[name] = array.T if array.ndim == 2 else array
    return theirs


def in_passls_old_names(network):
    theirs = {}
    for name, array in in_timms_names(network).items():
        name = "backbone." + name.replace("pre_logits.fc", "head0")
        theirs[name] = array.T if array.ndim == 2 else array
    return theirs


DISTILLED = "DistilledVisionTransformer"
PUBLISHED = {
    "timm": ("timm", in_timms_names, "VisionTransformer", {}),
    "timm pre-logits": ("timm", in_timms_names, "VisionTransformer", {"representation_size": 24}),
    "timm distilled": ("timm", in_timms_names, DISTILLED, {}),
    "facebook": ("facebook", in_timms_names, DISTILLED, {}),
    "google": ("google", in_googles_names, "VisionTransformer", {}),
    "google in21k": ("google", in_googles_names, "VisionTransformer", {"representation_size": 24}),
    "big_vision gap": (
        "big_vision",
        in_big_visions_names,
        "VisionTransformer",
        {"pool": "mean"},
    ),
    "passl_v1": ("passl_v1", in_passls_old_names, "VisionTransformer", {"representation_size": 24}),
    "passl_v1 distilled": ("passl_v1", in_passls_old_names, DISTILLED, {}),
    "paddlevit": ("paddlevit", in_paddlevits_names, DISTILLED, {}),
    "huggingface": ("huggingface", in_huggingfaces_names, "VisionTransformer", {}),
    "huggingface deit": (
        "huggingface_deit",
        lambda network: in_huggingfaces_names(network, "deit", True),
        DISTILLED,
        {},
    ),
}


@pytest.mark.smoke
@pytest.mark.parametrize("case", PUBLISHED)
def test_files_of_every_publisher_are_read(case, tmp_path):
    publisher, named, name, arguments = PUBLISHED[case]
    source = tiny(name, **arguments)
    theirs = named(source)
    if publisher in ("google", "big_vision"):
        file = tmp_path / "x.npz"
        npz.write(str(file), theirs)
    elif publisher == "facebook":
        file = tmp_path / "x.pth"
        write_under(file, "model", theirs)
    elif publisher in ("passl_v1", "paddlevit"):
        file = tmp_path / "x.pdparams"
        paddle.save(theirs, str(file))
    else:
        file = tmp_path / "x.pth"
        torch.write(str(file), theirs)
    network = passl.create_model(name, num_classes=5, **TINY, **arguments)
    report = load_weights(network, file)
    assert report.publisher == publisher
    assert (
        not report.kept and not report.left_out and len(report.loaded) == len(source.state_dict())
    )
    images = pixels(2, 3, 24, 32)
    np.testing.assert_array_equal(network(images), source(images))


def test_a_distilled_file_does_not_fit_a_plain_network(tmp_path):
    safetensors.write(
        str(tmp_path / "x.safetensors"), in_timms_names(tiny(DISTILLED)), {"format": "pt"}
    )
    with pytest.raises(PasslError, match="dist_token"):
        load_weights(tiny(), tmp_path / "x.safetensors")


SQUARE = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "num_blocks": 1, "num_heads": 3}
WAYS = {
    "timm": ("bicubic, antialias", in_timms_names, "safetensors"),
    "facebook": ("bicubic", in_timms_names, "pth"),
    "google": ("bilinear, corners aligned", None, "npz"),
}


@pytest.mark.parametrize("publisher", WAYS)
def test_positions_for_another_size_are_resized_as_the_publisher_does(
    publisher, tmp_path, messages
):
    words, named, suffix = WAYS[publisher]
    source = tiny(**SQUARE)
    file = tmp_path / f"x.{suffix}"
    if publisher == "google":
        theirs = {
            "cls": source.backbone.cls_token.numpy(),
            "Transformer/posembed_input/pos_embedding": source.backbone.pos_embed.numpy(),
        }
        npz.write(str(file), theirs)
    elif publisher == "facebook":
        write_under(file, "model", named(source))
    else:
        safetensors.write(str(file), named(source), {"format": "pt"})
    network = tiny(**{**SQUARE, "img_size": [20, 28]})
    load_weights(network, file, allow_partial=publisher == "google")
    assert any(f"4×4 patches resized to 5×7 ({words})" in line for line in messages())
    old, new = source.backbone.pos_embed.numpy(), network.backbone.pos_embed.numpy()
    assert new.shape == (1, 36, 24)
    np.testing.assert_array_equal(new[:, 0], old[:, 0])

    way = words.replace("corners ", "").replace(", ", "_")
    wanted = resized_grid(old[0, 1:].reshape(4, 4, 24), (5, 7), way).reshape(35, 24)
    np.testing.assert_allclose(new[0, 1:], wanted, rtol=1e-6, atol=1e-7)


def test_positions_of_no_square_are_not_guessed_at(tmp_path):
    source = tiny()  # 3×4 patches
    safetensors.write(str(tmp_path / "x.safetensors"), in_timms_names(source), {"format": "pt"})
    with pytest.raises(PasslError, match="13 positions, which are not 1 and those of a square"):
        load_weights(tiny(img_size=[32, 32]), tmp_path / "x.safetensors")


def test_every_norm_has_the_authors_epsilon():
    network = tiny().backbone
    norms = [layer for layer in network.sublayers() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 1 and {norm._epsilon for norm in norms} == {1e-6}
