"""CLIP: sizes, initial weights, the loss's bounds, and what is refused."""

import math

import numpy as np
import paddle
import pytest
from clip import TEXT, clip, pairs, small_clip, small_pairs
from PIL import Image
from stepping import stepping

from passl.modeling.architectures import build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.backbones.clip_resnet import AveragedBottleneck
from passl.modeling.texts import build_text
from passl.solver.groups import undecayed_names
from passl.utils.errors import PasslError


def size_of(network):
    return sum(parameter.size for parameter in network.parameters())


# open_clip 3.3.0's networks: image tower with its projection, and all.
@pytest.mark.parametrize(
    "backbone, embed_dim, text, tower, total",
    [
        ("clip_resnet50_224", 1024, {}, 38_316_896, 102_007_137),
        ("clip_resnet101_224", 512, {}, 56_259_936, 119_688_033),
        ("clip_resnet50x4_288", 640, {"embed_dim": 640, "num_heads": 10}, 87_137_080, 178_300_601),
        ("clip_vit_b32_224", 512, {}, 87_849_216, 151_277_313),
        ("clip_vit_b16_224", 512, {}, 86_192_640, 149_620_737),
        ("clip_vit_s16_224", 384, {"embed_dim": 384, "num_heads": 6}, None, 62_257_537),
        ("clip_vit_b32_256", 512, {}, None, 151_288_833),
        ("clip_vit_b16_plus_240", 640, {"embed_dim": 640, "num_heads": 10}, None, 208_377_345),
        (
            "clip_vit_g14_224",
            1024,
            {"embed_dim": 1024, "num_heads": 16, "num_blocks": 24},
            1_012_645_632,
            1_366_678_273,
        ),
    ],
)
def test_sizes(backbone, embed_dim, text, tower, total):
    with paddle.LazyGuard():  # the shapes are enough
        network = build_architecture(
            {
                "name": "CLIP",
                "architecture": {"name": backbone},
                "text": text,
                "embed_dim": embed_dim,
                "project_images": "resnet" not in backbone,
            }
        )
    assert size_of(network) == total
    if tower is not None:
        projection = 0 if network.image_projection is None else network.image_projection.weight.size
        assert size_of(network.backbone) + projection == tower


def check_std(parameter, expected):
    values = parameter.numpy()
    assert values.std() == pytest.approx(expected, rel=5 / math.sqrt(2 * values.size) + 1e-3)
    assert abs(values.mean()) < 5 * expected / math.sqrt(values.size)


@pytest.mark.smoke
def test_initial_weights_of_the_text_tower():
    """The stds of clip/model.py; PASSL 1 has 1.06 where the first one of 0.00902 stands."""
    paddle.seed(0)
    text = build_text({"num_blocks": 12, "vocabulary": 1000, "context": 77})
    block = text.blocks[3]
    for parameter, std in (
        (block.attn.proj.weight, 512**-0.5 * 24**-0.5),
        (block.mlp.fc2.weight, 512**-0.5 * 24**-0.5),
        (block.attn.qkv.weight, 512**-0.5),
        (block.mlp.fc1.weight, 1024**-0.5),
        (block.mlp.fc1.bias, 512**-0.5 / math.sqrt(3)),
        (text.token_embed.weight, 0.02),
        (text.pos_embed, 0.01),
    ):
        check_std(parameter, std)
    assert not block.attn.qkv.bias.numpy().any() and not block.attn.proj.bias.numpy().any()
    assert block.attn.proj.weight.numpy().std() == pytest.approx(0.00902, abs=5e-5)


def test_initial_weights_of_the_image_towers():
    """As measured of open_clip's B/32: conv1 .01042, in_proj .02552, c_fc .02084, c_proj .01041."""
    paddle.seed(0)
    vit = build_backbone({"name": "CLIPVisionTransformer", "num_blocks": 1})
    block = vit.blocks[0]
    for parameter, std in (
        (vit.stem.proj.weight, 0.01042),
        (block.attn.qkv.weight, 0.02552),
        (block.attn.proj.weight, 0.02082),
        (block.mlp.fc1.weight, 0.02084),
        (block.mlp.fc2.weight, 0.01041),
        (vit.pos_embed, 768**-0.5),
        (vit.cls_token, 768**-0.5),
    ):
        assert parameter.numpy().std() == pytest.approx(
            std, rel=0.1 if parameter.ndim == 3 else 0.01
        )
    assert not block.attn.qkv.bias.numpy().any() and not block.attn.proj.bias.numpy().any()
    assert block.mlp.fc2.bias.numpy().std() == pytest.approx(3072**-0.5 / math.sqrt(3), rel=0.1)
    network = clip("ViT", embed_dim=256)  # of towers 64 wide
    check_std(network.image_projection.weight, 64**-0.5)
    check_std(network.text_projection.weight, 64**-0.5)
    resnet = build_backbone({"name": "CLIPResNet", "blocks": [1, 1, 1, 1]})
    check_std(resnet.pool.k.weight, 2048**-0.5)
    check_std(resnet.pool.pos_embed, 2048**-0.5)
    assert not resnet.stages[2][0].layers[2].norm.weight.numpy().any()
    assert resnet.stages[2][0].layers[1].norm.weight.numpy().all()


@pytest.mark.smoke
def test_a_fresh_network_loses_as_one_that_knows_nothing():
    network = small_clip("ViT")
    outputs = network(small_pairs("ViT", 16))
    assert outputs["scalars"]["chance"].item() == pytest.approx(math.log(16))
    assert outputs["loss"].item() == pytest.approx(math.log(16), rel=0.4)
    assert outputs["scalars"]["scale"].item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert network.logit_scale.shape == []
    network = small_clip("ViT", loss="sigmoid")
    outputs = network(small_pairs("ViT", 16))
    assert outputs["scalars"]["scale"].item() == pytest.approx(10.0)
    assert network.logit_bias.item() == -10.0 and "chance" not in outputs["scalars"]


def test_logits_are_scaled_cosines():
    """Of a classifier of any lengths, in which two classes are one."""
    network = small_clip("ViT", "float64")
    network.eval()
    images = small_pairs("ViT", 5, dtype="float64")["image"]
    rows = np.random.default_rng(0).normal(size=(4, 48)) * [[1], [5], [0.1], [1]]
    rows[3] = rows[0]
    network.use_classifier(paddle.to_tensor(rows))
    outputs = network({"image": images})
    found = outputs["image_embedding"].numpy()
    cosines = found @ rows.T / np.linalg.norm(found, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
    logits = outputs["logits"].numpy()
    np.testing.assert_allclose(logits, np.exp(2.65926003693) * cosines, rtol=1e-6)
    assert (logits[:, 0] == logits[:, 3]).all() and network.num_classes == 4
    network.use_classifier(None)
    assert "logits" not in network({"image": images}) and network.num_classes is None


@pytest.mark.smoke
def test_what_stands_behind_a_text_changes_nothing():
    text = small_clip("ViT").text
    text.eval()
    ids = paddle.to_tensor([[98, 5, 7, 99, 0, 0, 0], [98, 5, 99, 3, 99, 8, 1]])
    with paddle.no_grad():
        whole = text(ids).numpy()
        np.testing.assert_allclose(text(ids[:, :4]).numpy()[0], whole[0], atol=1e-6)
        np.testing.assert_allclose(text(ids[1:, :3]).numpy()[0], whole[1], atol=1e-6)


def test_a_word_does_not_see_those_behind_it():
    text = small_clip("ViT").text
    text.eval()
    seen = []
    text.blocks[-1].register_forward_post_hook(lambda layer, inputs, output: seen.append(output))
    with paddle.no_grad():
        text(paddle.to_tensor([[98, 5, 7, 9, 99]]))
        text(paddle.to_tensor([[98, 5, 7, 11, 99]]))
    one, other = (tensor.numpy() for tensor in seen)
    np.testing.assert_allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert np.abs(one[:, 3:] - other[:, 3:]).max() > 1e-3


@pytest.mark.smoke
def test_what_does_not_decay():
    """open_clip's rule: what has fewer than two axes; the class token counts as it does there."""
    for tower in ("ViT", "ResNet"):
        network = clip(tower)
        undecayed = undecayed_names(network)
        for name, parameter in network.named_parameters():
            of_one_axis = parameter.ndim < 2 or name == "backbone.cls_token"
            assert (name in undecayed) == of_one_axis, name
        assert "logit_scale" in undecayed and "text.pos_embed" not in undecayed


@pytest.mark.smoke
@pytest.mark.parametrize("begin, end", [(math.log(100.0), math.log(100.0)), (0.0, 0.0)])
def test_the_scale_stays_within_its_bounds(begin, end):
    network = small_clip("ViT")
    network.logit_scale.set_value(paddle.to_tensor(begin))
    batch = small_pairs("ViT", 8)
    if end:  # pairs that are easily told apart want a larger scale
        network.eval()
        with paddle.no_grad():
            texts = network.embed_texts(batch["text"])
        network.train()
        network.embed_images = lambda images: texts + 0.0 * images.sum()
    step, _ = stepping(network, 8, rate=0.5)
    gradients = []
    network.logit_scale.register_hook(lambda gradient: gradients.append(gradient.item()))
    step(0, batch)
    assert gradients[0] < 0 if end else gradients[0] > 0, "it would leave them"
    assert network.logit_scale.item() == pytest.approx(end, abs=1e-6)


def test_frozen_towers():
    network = small_clip("ViT", freeze=["backbone", "image_projection"])
    before = {name: parameter.numpy() for name, parameter in network.named_parameters()}
    step, _ = stepping(network, 8, rate=0.5)
    step(0, small_pairs("ViT", 8))
    for name, parameter in network.named_parameters():
        frozen = name.startswith(("backbone.", "image_projection."))
        assert (parameter.numpy() == before[name]).all() == frozen, name


def test_any_backbone_is_an_image_tower():
    for architecture in (
        {"name": "MlpMixer", "img_size": 32, "patch_size": 16, "embed_dim": 16, "num_blocks": 1,
         "tokens_mlp_dim": 8, "channels_mlp_dim": 16},
        {"name": "SwinTransformer", "img_size": 32, "patch_size": 2, "embed_dim": 8,
         "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ):  # fmt: skip
        paddle.seed(0)
        network = build_architecture(
            {
                "name": "CLIP",
                "architecture": architecture,
                "text": {"embed_dim": 16, "num_blocks": 1, "num_heads": 2},
                "embed_dim": 8,
            }
        )
        network.train()
        step, _ = stepping(network, 8, rate=1e-3, name="AdamW")
        batch = pairs(8, 32, context=12)
        losses = [step(number, batch).losses[0].item() for number in range(20)]
        assert losses[-1] < 0.8 * losses[0], architecture["name"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "hinge"}, "loss is softmax or sigmoid, not 'hinge'"),
        ({"text": {"vocabulary": 100}}, "49408 ids, the text tower's vocabulary 100"),
        (
            {"text": {"vocabulary": 50_000}},
            "ends a text with the id 49407, .* looks for 49999; set",
        ),
        (
            {"text": {"end": 0}},
            "ends a text with the id 49407, the text tower looks for 0; set text",
        ),
        ({"project_images": False, "embed_dim": 7}, "64 features are compared .* embed_dim is 7"),
        ({"freeze": ["words"]}, "cannot freeze 'words'"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(PasslError, match=message):
        clip("ViT", **changes)


def test_a_larger_vocabulary_than_the_tokenizers():
    """It is told where texts end; the ids that no text has change nothing."""
    network = clip("ViT", text={**TEXT, "vocabulary": 49_500, "end": 49_407})
    ids, _ = network.tokenizer(["a cat", "two dogs of snow"], 12)
    network.eval()
    whole = network.embed_texts(paddle.to_tensor(ids)).numpy()
    cut = network.embed_texts(paddle.to_tensor(ids[:1, :4])).numpy()
    np.testing.assert_allclose(whole[:1], cut, rtol=1e-4, atol=1e-6)
    assert np.abs(whole[0] - whole[1]).max() > 1e-3


def test_longer_texts_are_refused():
    with pytest.raises(PasslError, match="texts have 11 ids, the text tower takes 10"):
        small_clip("ViT").embed_texts(paddle.ones([1, 11], dtype="int64"))
    with pytest.raises(PasslError, match="multiples of 32"):
        build_backbone({"name": "CLIPResNet", "img_size": 100})


@pytest.mark.parametrize("tower", ["ViT", "ResNet"])
def test_other_sizes_of_images_and_texts(tower):
    """As open_clip does it: a grid by the filter that Pillow has too, a row linearly."""
    small = clip(tower)
    size = {"ViT": 64, "ResNet": 96}[tower]
    name = {"ViT": "pos_embed", "ResNet": "pool.pos_embed"}[tower]
    given = dict(small.backbone.named_parameters())[name].numpy()
    architecture = {"ViT": "CLIPVisionTransformer", "ResNet": "CLIPResNet"}[tower]
    larger = build_backbone(
        {"name": architecture, "img_size": size, "embed_dim": 64, "num_heads": 2}
        | ({"patch_size": 16, "num_blocks": 2} if tower == "ViT" else {"width": 16})
    )
    change, words = larger.adapt_weight(name, given.shape, "openai")
    found, side = change(given)[0], size // {"ViT": 16, "ResNet": 32}[tower]
    assert "resized" in words and found.shape[0] == 1 + side**2
    np.testing.assert_array_equal(found[0], given[0, 0])
    grid = given[0, 1:].reshape(2, 2, -1)
    for channel in range(0, grid.shape[2], 17):
        picture = Image.fromarray(grid[:, :, channel], mode="F")
        expected = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(
            found[1:].reshape(side, side, -1)[:, :, channel], expected, atol=1e-5
        )
    text = build_text({"embed_dim": 64, "num_blocks": 1, "num_heads": 2, "context": 16})
    change, words = text.adapt_weight("pos_embed", [77, 64], "openai")
    rows = change(small.text.pos_embed.numpy())
    centres = (np.arange(16) + 0.5) * 77 / 16 - 0.5
    expected = [np.interp(centres, np.arange(77), c) for c in small.text.pos_embed.numpy().T]
    np.testing.assert_allclose(rows, np.array(expected).T, atol=1e-6)


def normed(maps, scale, shift):
    """Batch normalisation in training, of ``[N, C, H, W]``."""
    mean, variance = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True)
    maps = (maps - mean) / np.sqrt(variance + 1e-5)
    return maps * scale[:, None, None] + shift[:, None, None]


def test_a_block_in_training_is_that_of_numpy():
    """There averages before a convolution and behind it differ, by the statistics."""
    paddle.seed(0)
    block = AveragedBottleneck(6, 3, 2)
    block.to(dtype="float64")
    rng = np.random.default_rng(0)
    for parameter in block.parameters():
        parameter.set_value(rng.normal(size=parameter.shape))
    x = rng.normal(size=(2, 6, 4, 4))

    def conv_norm(layer, maps):
        kernel = layer.conv.weight.numpy()
        reach = kernel.shape[2] // 2
        padded = np.pad(maps, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
        height, width = maps.shape[2:]
        found = sum(
            np.einsum(
                "oc,nchw->nohw", kernel[:, :, i, j], padded[:, :, i : i + height, j : j + width]
            )
            for i in range(kernel.shape[2])
            for j in range(kernel.shape[3])
        )
        return normed(found, layer.norm.weight.numpy(), layer.norm.bias.numpy())

    def averaged(maps):
        return maps.reshape(*maps.shape[:2], 2, 2, 2, 2).mean((3, 5))

    branch = np.maximum(conv_norm(block.layers[0], x), 0)
    branch = averaged(np.maximum(conv_norm(block.layers[1], branch), 0))
    branch = conv_norm(block.layers[2], branch)
    expected = np.maximum(branch + conv_norm(block.shortcut, averaged(x)), 0)
    block.train()
    np.testing.assert_allclose(block(paddle.to_tensor(x)).numpy(), expected, atol=1e-10)


def test_how_deep_parameters_lie():
    """Of five blocks in four stages; embeddings and the stem are the first layer."""
    backbone = clip("ResNet").backbone
    depths = backbone.parameter_depths
    assert set(depths) == {name for name, _ in backbone.named_parameters()}
    for name, depth in (
        ("stem.0.conv.weight", 0),
        ("stem.2.norm.bias", 0),
        ("stages.0.0.layers.0.conv.weight", 1),
        ("stages.1.0.shortcut.conv.weight", 2),
        ("stages.1.1.layers.2.norm.weight", 3),
        ("stages.3.0.layers.1.conv.weight", 5),
        ("pool.q.weight", 5),
        ("pool.pos_embed", 5),
    ):
        assert depths[name] == depth, name
    text = clip("ViT").text.parameter_depths
    assert text["token_embed.weight"] == text["pos_embed"] == 0
    assert text["blocks.0.norm1.weight"] == 1 and text["blocks.1.mlp.fc2.bias"] == 2


def test_positions_of_no_square_are_not_resized():
    backbone = clip("ResNet").backbone
    channels = backbone.pool.q.weight.shape[0]
    for places, fits in ((9, True), (6, False), (0, False)):
        found = backbone.adapt_weight("pool.pos_embed", [1, 1 + places, channels], "openai")
        assert (found is not None) == fits, places
    assert backbone.adapt_weight("pool.pos_embed", [1, 10, channels + 1], "openai") is None
    text = clip("ViT").text
    assert text.adapt_weight("pos_embed", [9, 63], "openai") is None
