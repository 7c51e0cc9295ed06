"""Files of CLIP as each publisher names and stores them, written out by hand.

From the publishers' own code, not from the tables of ``passl``: see the sources named there. The
networks are as wide as they have embeddings, so that every matrix that could be stored the other
way round is square; all is compared by value.
"""

import re

import numpy as np
import paddle
import publishers
import pytest
from clip import SMALL_TEXT, TOWERS, clip
from hostile_files import torch_script_of

from passl.modeling.architectures.classifier import Network
from passl.modeling.backbones import BACKBONES
from passl.utils.errors import PasslError
from passl.utils.stored_array import StoredArray
from passl.weights import WeightFile, load_weights
from passl.weights.converting import convert_weights
from passl.weights.formats import paddle as paddle_format
from passl.weights.formats import safetensors, torch
from passl.weights.naming import namings

WIDTH, CONTEXT = 64, 10
TEXT = {**SMALL_TEXT, "embed_dim": WIDTH, "vocabulary": 100}
FLOAT = np.float32
# Without a transposition in torch's files, although they have two axes: openai/CLIP, clip/model.py
BARE = (
    "text_projection", "positional_embedding", "token_embedding.weight", "visual.proj",
    "visual.positional_embedding", "visual.attnpool.positional_embedding",
)  # fmt: skip


def drawn(shapes, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, shape in shapes.items():
        values = rng.uniform(0.5, 1.5, shape) if "running_var" in name else rng.normal(size=shape)
        if len(shape) == 1 and name.endswith("weight"):
            values = 1 + 0.2 * values
        scale = 1.0 if len(shape) < 2 or "embedding" in name else np.prod(shape[1:]) ** -0.5
        arrays[name] = (values * (0.2 if len(shape) == 2 and name in BARE else scale)).astype(FLOAT)
    arrays["logit_scale"] = np.array(3.25, FLOAT)
    return arrays


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name, width):
    return {
        **norm(f"{name}.ln_1", width),
        f"{name}.attn.in_proj_weight": (3 * width, width),
        f"{name}.attn.in_proj_bias": (3 * width,),
        f"{name}.attn.out_proj.weight": (width, width),
        f"{name}.attn.out_proj.bias": (width,),
        **norm(f"{name}.ln_2", width),
        f"{name}.mlp.c_fc.weight": (4 * width, width),
        f"{name}.mlp.c_fc.bias": (4 * width,),
        f"{name}.mlp.c_proj.weight": (width, 4 * width),
        f"{name}.mlp.c_proj.bias": (width,),
    }


def text_shapes(width=WIDTH, context=CONTEXT, embed=WIDTH):
    shapes = {"positional_embedding": (context, width), "text_projection": (width, embed)}
    for i in range(2):
        shapes.update(block(f"transformer.resblocks.{i}", width))
    return {**shapes, "token_embedding.weight": (100, width), **norm("ln_final", width)}


def vit(seed=0, positions=5, context=CONTEXT):
    """openai/CLIP, clip/model.py: a ViT of 32 pixels in patches of 16."""
    shapes = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (positions, WIDTH),
        "visual.proj": (WIDTH, WIDTH),
        "visual.conv1.weight": (WIDTH, 3, 16, 16),
        **norm("visual.ln_pre", WIDTH),
        **norm("visual.ln_post", WIDTH),
        **text_shapes(context=context),
    }
    for i in range(2):
        shapes.update(block(f"visual.transformer.resblocks.{i}", WIDTH))
    return drawn(shapes, seed)


def batch_norm(name, width):
    return {f"{name}.{n}": (width,) for n in ("weight", "bias", "running_mean", "running_var")}


def resnet(seed=0):
    """The same file's ModifiedResNet, of 64 pixels, width 16 and blocks 1, 2, 1, 1."""
    shapes = {"visual.conv1.weight": (8, 3, 3, 3), "visual.conv2.weight": (8, 8, 3, 3),
              "visual.conv3.weight": (16, 8, 3, 3)}  # fmt: skip
    for i, width in enumerate((8, 8, 16)):
        shapes.update(batch_norm(f"visual.bn{i + 1}", width))
    channels = 16
    for i, count in enumerate((1, 2, 1, 1)):
        inside = 16 * 2**i
        for j in range(count):
            name = f"visual.layer{i + 1}.{j}"
            sizes = ((inside, channels, 1), (inside, inside, 3), (4 * inside, inside, 1))
            for k, (outputs, inputs, side) in enumerate(sizes):
                shapes[f"{name}.conv{k + 1}.weight"] = (outputs, inputs, side, side)
                shapes.update(batch_norm(f"{name}.bn{k + 1}", outputs))
            if j == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inside, channels, 1, 1)
                shapes.update(batch_norm(f"{name}.downsample.1", 4 * inside))
            channels = 4 * inside
    shapes["visual.attnpool.positional_embedding"] = (5, 512)
    for part, outputs in (("q", 512), ("k", 512), ("v", 512), ("c", 48)):
        shapes[f"visual.attnpool.{part}_proj.weight"] = (outputs, 512)
        shapes[f"visual.attnpool.{part}_proj.bias"] = (outputs,)
    return drawn({**shapes, **text_shapes(embed=48)}, seed)


MAKERS = {"ViT": vit, "ResNet": resnet}


def network(tower="ViT", seed=0, **changes):
    changes = {"text": TEXT, "tokenizer": {"name": "HundredIds"}, **changes}
    made = clip(tower, True, seed=seed, embed_dim=WIDTH if tower == "ViT" else 48, **changes)
    made.eval()
    return made


# ------------------------------------------------ from OpenAI's names to ours, by hand

OURS = [
    (r"visual\.transformer\.resblocks", "backbone.blocks"),
    (r"^transformer\.resblocks", "text.blocks"),
    (r"ln_([12])", r"norm\1"),
    (r"attn\.in_proj_(weight|bias)", r"attn.qkv.\1"),
    (r"attn\.out_proj", "attn.proj"),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
    (r"^visual\.ln_pre", "backbone.norm_pre"),
    (r"^visual\.ln_post", "backbone.norm"),
    (r"^visual\.attnpool\.positional_embedding", "backbone.pool.pos_embed"),
    (r"^visual\.attnpool\.c_proj", "backbone.pool.proj"),
    (r"^visual\.attnpool\.([qkv])_proj", r"backbone.pool.\1"),
    (r"^visual\.class_embedding", "backbone.cls_token"),
    (r"^visual\.positional_embedding", "backbone.pos_embed"),
    (r"^visual\.proj$", "image_projection.weight"),
    (r"^positional_embedding", "text.pos_embed"),
    (r"^token_embedding", "text.token_embed"),
    (r"^ln_final", "text.norm"),
    (r"^text_projection$", "text_projection.weight"),
    (r"running_mean", "_mean"),
    (r"running_var", "_variance"),
    (r"downsample\.0", "shortcut.conv"),
    (r"downsample\.1", "shortcut.norm"),
    (r"^visual\.layer4", "backbone.stages.3"),
    (r"^visual\.layer3", "backbone.stages.2"),
    (r"^visual\.layer2", "backbone.stages.1"),
    (r"^visual\.layer1", "backbone.stages.0"),
    (r"(stages\.\d\.\d)\.conv(\d)", lambda m: f"{m[1]}.layers.{int(m[2]) - 1}.conv"),
    (r"(stages\.\d\.\d)\.bn(\d)", lambda m: f"{m[1]}.layers.{int(m[2]) - 1}.norm"),
    (r"^visual\.conv(\d)", lambda m: f"backbone.stem.{int(m[1]) - 1}.conv"),
    (r"^visual\.bn(\d)", lambda m: f"backbone.stem.{int(m[1]) - 1}.norm"),
]


def expected(arrays):
    """Returns what the state of our network is to be: name to array."""
    found = {}
    for name, array in arrays.items():
        array = array.T if array.ndim == 2 and name not in BARE else array
        for old, new in OURS:
            name = re.sub(old, new, name)
        if name == "backbone.stem.0.conv.weight" and array.shape[-1] == 16:
            name = "backbone.stem.proj.weight"  # of patches
        found[name] = array
    for name in ("backbone.cls_token", "backbone.pos_embed", "backbone.pool.pos_embed"):
        if name in found:
            found[name] = found[name].reshape(1, -1, found[name].shape[-1])
    return found


def check(model, wanted):
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert state.keys() == wanted.keys()
    for name, array in wanted.items():
        assert state[name].dtype == FLOAT
        np.testing.assert_array_equal(state[name], array, err_msg=name)


# ------------------------------------------------ the publishers


def parts_of_attention(arrays, names="qkv"):
    """Queries, keys and values apart, as layers."""
    found = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if not match:
            found[name] = array
            continue
        for part, rows in zip(names, np.split(array, 3)):
            found[f"{match[1]}.{part}_proj.{match[2]}"] = rows
    return found


def renamed(arrays, *rules):
    found = {}
    for name, array in arrays.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        found[name] = array
    return found


def in_paddle(arrays):
    """Linear layers are in, out; what has no transposition there has none here either."""
    found = {
        name: array.T.copy() if array.ndim == 2 and name not in BARE else array
        for name, array in arrays.items()
    }
    found["logit_scale"] = found["logit_scale"].reshape(1)
    return renamed(found, ("running_mean", "_mean"), ("running_var", "_variance"))


def with_settings(arrays):
    """What OpenAI's files hold besides."""
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.array(7)
        for name in arrays
        if name.endswith("running_var")
    }
    settings = {"input_resolution": 32, "context_length": CONTEXT, "vocab_size": 100}
    masks = {"transformer.resblocks.1.attn_mask": np.zeros((CONTEXT, CONTEXT), FLOAT)}
    return {**arrays, **counters, **masks, **{n: np.array(v) for n, v in settings.items()}}


def half(arrays):
    """clip/model.py, convert_weights: layers and bare projections, not norms nor embeddings."""
    kept = ("ln_", "bn", "embedding", "downsample.1", "logit_scale")
    return {
        name: array if any(part in name for part in kept) else array.astype("f2")
        for name, array in arrays.items()
    }


def huggingface(arrays):
    """transformers/models/clip/modeling_clip.py, with the ids of positions of older versions."""
    arrays = parts_of_attention(arrays)
    arrays["text_projection"] = arrays["text_projection"].T
    arrays["visual.proj"] = arrays["visual.proj"].T
    found = renamed(
        arrays,
        (r"^visual\.proj$", "visual_projection.weight"),
        (r"^text_projection$", "text_projection.weight"),
        (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
        (r"^visual\.class_embedding", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
        (r"^visual\.ln_post", "vision_model.post_layernorm"),
        (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
        (r"^positional_embedding", "text_model.embeddings.position_embedding.weight"),
        (r"^token_embedding", "text_model.embeddings.token_embedding"),
        (r"^ln_final", "text_model.final_layer_norm"),
        (r"^transformer\.resblocks", "text_model.encoder.layers"),
        (r"ln_([12])", r"layer_norm\1"),
        (r"\.attn\.", ".self_attn."),
        (r"mlp\.c_fc", "mlp.fc1"),
        (r"mlp\.c_proj", "mlp.fc2"),
    )
    found["text_model.embeddings.position_ids"] = np.arange(CONTEXT)[None]
    found["vision_model.embeddings.position_ids"] = np.arange(5)[None]
    return found


def passl_v1(arrays):
    """PASSL 1, passl/modeling/backbones/clip.py and vision_transformer.py."""
    arrays = renamed(
        in_paddle(arrays),
        (r"in_proj_(weight|bias)", r"qkv.\1"),
        (r"out_proj", "proj"),
        (r"ln_([12])", r"norm\1"),
        (r"mlp\.c_fc", "mlp.fc1"),
        (r"mlp\.c_proj", "mlp.fc2"),
        (r"^visual\.conv1", "visual.patch_embed.proj"),
        (r"^visual\.ln_", "visual.norm_"),
        (r"^visual\.transformer\.resblocks", "visual.blocks"),
        (r"^transformer\.resblocks", "transformer.blocks"),
    )
    for name in ("visual.class_embedding", "visual.positional_embedding"):
        arrays[name] = arrays[name].reshape(1, -1, WIDTH)
    return {f"model.{name}": array for name, array in arrays.items()}


def paddlenlp(arrays):
    """paddlenlp/transformers/clip/modeling.py."""
    return renamed(
        in_paddle(parts_of_attention(arrays)),
        (r"^visual\.proj$", "vision_projection"),
        (r"^positional_embedding", "text_model.positional_embedding.weight"),
        (r"^token_embedding", "text_model.token_embedding"),
        (r"^ln_final", "text_model.ln_final"),
        (r"^transformer\.resblocks", "text_model.transformer.layers"),
        (r"^visual\.transformer\.resblocks", "vision_model.transformer.layers"),
        (r"^visual\.(attnpool\.)?positional_embedding",
         r"vision_model.\1positional_embedding.weight"),
        (r"^visual\.", "vision_model."),
        (r"ln_([12])", r"norm\1"),
        (r"\.attn\.", ".self_attn."),
        (r"mlp\.c_fc", "linear1"),
        (r"mlp\.c_proj", "linear2"),
    )  # fmt: skip


def timm_vit(arrays):
    """timm/models/vision_transformer.py, of the image tower alone."""
    arrays = {name: array for name, array in arrays.items() if name.startswith("visual.")}
    found = renamed(
        arrays,
        (r"^visual\.conv1", "patch_embed.proj"),
        (r"^visual\.class_embedding", "cls_token"),
        (r"^visual\.positional_embedding", "pos_embed"),
        (r"^visual\.ln_pre", "norm_pre"),
        (r"^visual\.ln_post", "norm"),
        (r"^visual\.proj$", "head.weight"),
        (r"^visual\.transformer\.resblocks", "blocks"),
        (r"in_proj_(weight|bias)", r"qkv.\1"),
        (r"out_proj", "proj"),
        (r"ln_([12])", r"norm\1"),
        (r"mlp\.c_fc", "mlp.fc1"),
        (r"mlp\.c_proj", "mlp.fc2"),
    )
    for name in ("cls_token", "pos_embed"):
        found[name] = found[name].reshape(1, -1, WIDTH)
    found["head.weight"] = found["head.weight"].T.copy()
    found["head.bias"] = np.zeros(len(found["head.weight"]), FLOAT)
    return found


def timm_resnet(arrays):
    """timm/models/byobnet.py, resnet50_clip."""
    arrays = {name: array for name, array in arrays.items() if name.startswith("visual.")}
    return renamed(
        arrays,
        (r"^visual\.attnpool\.positional_embedding", "head.pos_embed"),
        (r"^visual\.attnpool\.c_proj", "head.proj"),
        (r"^visual\.attnpool\.([qkv])_proj", r"head.\1"),
        (r"^visual\.conv(\d)", r"stem.conv\1.conv"),
        (r"^visual\.bn(\d)", r"stem.conv\1.bn"),
        (r"^visual\.layer(\d)", lambda m: f"stages.{int(m[1]) - 1}"),
        (r"downsample\.0", "shortcut.conv.conv"),
        (r"downsample\.1", "shortcut.conv.bn"),
        (r"(stages.*)\.conv([13])\.", r"\1.conv\2_1x1.conv."),
        (r"(stages.*)\.conv2\.", r"\1.conv2_kxk.conv."),
        (r"(stages.*)\.bn([13])\.", r"\1.conv\2_1x1.bn."),
        (r"(stages.*)\.bn2\.", r"\1.conv2_kxk.bn."),
    )


def custom(arrays):
    """open_clip's CustomTextCLIP: the text tower under its own name."""
    return {
        name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": array
        for name, array in arrays.items()
    }


def of_torch(folder, arrays):
    path = folder / "file.bin"
    torch.write(str(path), arrays)
    return path


def of_lightning(folder, arrays):
    """A checkpoint of open_clip's training, in parallel."""
    path = folder / "epoch_32.pt"
    named = {f"module.{name}": array for name, array in arrays.items()}
    publishers.write_under(path, "state_dict", named)
    return path


def of_safetensors(folder, arrays):
    path = folder / "file.safetensors"
    safetensors.write(str(path), arrays, {"format": "pt"})
    return path


def of_paddle(folder, arrays):
    path = folder / "file.pdparams"
    paddle_format.write(str(path), arrays)
    return path


def of_passl_1(folder, arrays):
    path = folder / "ViT-B-32.pdparams"
    tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    paddle.save({"state_dict": tensors}, str(path))
    return path


FILES = {
    "openai": ("ViT", with_settings, of_torch, "openai"),
    "openai, resnet": ("ResNet", with_settings, of_torch, "openai"),
    "open_clip": ("ViT", dict, of_safetensors, "openai"),
    "open_clip's training": ("ViT", dict, of_lightning, "openai"),
    "open_clip, custom": ("ViT", custom, of_safetensors, "open_clip_custom"),
    "open_clip, custom resnet": ("ResNet", custom, of_safetensors, "open_clip_custom"),
    "huggingface": ("ViT", huggingface, of_safetensors, "huggingface"),
    "huggingface, bin": ("ViT", huggingface, of_torch, "huggingface"),
    "passl_v1": ("ViT", passl_v1, of_passl_1, "passl_v1"),
    "paddlenlp": ("ViT", paddlenlp, of_paddle, "paddlenlp"),
    "paddlenlp, resnet": ("ResNet", paddlenlp, of_paddle, "paddlenlp"),
    "paddlemix": ("ViT", lambda a: in_paddle(parts_of_attention(a)), of_paddle, "paddlemix"),
}
TOWERS_ALONE = {
    "ViT": ("ViT", timm_vit, of_safetensors, "timm"),
    "ResNet": ("ResNet", timm_resnet, of_torch, "timm"),
}


def cases(table):
    return pytest.mark.parametrize(
        "tower, rename, write, publisher",
        table.values(),
        ids=[name.replace(", ", "-").replace(" ", "_") for name in table],
    )


@pytest.mark.smoke
@cases(FILES)
def test_every_number_of_both_towers(tower, rename, write, publisher, tmp_path):
    arrays = MAKERS[tower]()
    model = network(tower)
    report = load_weights(model, write(tmp_path, rename(arrays)))
    assert report.publisher == publisher and not report.kept
    assert len(report.loaded) == len(arrays)
    others = r"num_batches|_mask|input_resolution|context_length|vocab_size|position_ids"
    assert all(re.search(others, name) for name in report.left_out)
    check(model, expected(arrays))


@cases(TOWERS_ALONE)
def test_an_image_tower_alone(tower, rename, write, publisher, tmp_path):
    """A network of both towers does without a text tower only where it is to learn one."""
    arrays = MAKERS[tower]()
    path = write(tmp_path, rename(arrays))
    model = network(tower, seed=3)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(PasslError, match="missing in the file: logit_scale, text"):
        load_weights(model, path)
    report = load_weights(model, path, new_head=True)
    assert report.publisher == publisher
    wanted = expected({n: a for n, a in arrays.items() if n.startswith("visual.")})
    assert set(report.loaded) == set(wanted)
    check(model, {**before, **wanted})


@pytest.mark.smoke
@cases({**FILES, **{f"timm, {name}": case for name, case in TOWERS_ALONE.items()}})
def test_a_classifier_takes_the_image_tower(tower, rename, write, publisher, tmp_path):
    arrays = MAKERS[tower]()
    head = {"name": "ClassificationHead", "num_classes": 7}
    paddle.seed(0)
    architecture = {**TOWERS[tower], **({"quick_gelu": True} if tower == "ViT" else {})}
    model = Network(architecture, head)
    report = load_weights(model, write(tmp_path, rename(arrays)), new_head=True)
    assert report.publisher == publisher
    assert report.kept == ["head.fc.weight", "head.fc.bias"]
    wanted = expected(arrays)
    for name, tensor in model.state_dict().items():
        if name.startswith("backbone."):
            np.testing.assert_array_equal(tensor.numpy(), wanted.pop(name), err_msg=name)
    assert not any(name.startswith("backbone.") for name in wanted)


def test_what_timm_tuned_has_a_head_of_classes(tmp_path):
    """Its names are those of an image tower alone; its bias is not zero."""
    arrays = timm_vit(vit())
    arrays["head.weight"] = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(FLOAT)
    arrays["head.bias"] = np.arange(7, dtype=FLOAT)
    path = of_safetensors(tmp_path, arrays)
    model = Network({**TOWERS["ViT"]}, {"name": "ClassificationHead", "num_classes": 7})
    report = load_weights(model, path)
    assert report.publisher == "timm_classifier" and not report.kept
    np.testing.assert_array_equal(model.head.fc.weight.numpy(), arrays["head.weight"].T)
    np.testing.assert_array_equal(model.head.fc.bias.numpy(), arrays["head.bias"])
    model = network(seed=5)
    report = load_weights(model, path, new_head=True)
    assert "image_projection.weight" in report.kept and "head.weight" not in report.left_out
    assert {"head.fc.weight", "head.fc.bias"} <= set(report.left_out)


def test_half_precision_becomes_float32_and_nothing_else(tmp_path):
    arrays = half(vit())
    assert arrays["visual.proj"].dtype == np.float16
    assert arrays["visual.ln_pre.weight"].dtype == FLOAT
    model = network()
    load_weights(model, of_torch(tmp_path, arrays))
    check(model, {name: array.astype(FLOAT) for name, array in expected(arrays).items()})


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scale_of_either_shape(shape, tmp_path):
    arrays = {**vit(), "logit_scale": np.full(shape, 1.5, FLOAT)}
    model = network()
    load_weights(model, of_torch(tmp_path, arrays))
    assert model.logit_scale.shape == [] and model.logit_scale.item() == 1.5


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_bias_of_siglips_loss(shape, tmp_path):
    arrays = {**vit(), "logit_bias": np.full(shape, -9.5, FLOAT)}
    model = network(loss="sigmoid")
    load_weights(model, of_torch(tmp_path, arrays))
    assert model.logit_bias.item() == -9.5
    report = load_weights(network(), of_torch(tmp_path, arrays))  # of the other loss
    assert report.left_out == ["logit_bias"]


@pytest.mark.parametrize(
    "publisher, shape",
    [
        ("openai", ()),
        ("huggingface", ()),
        ("passl_v1", (1,)),
        ("paddlenlp", (1,)),
        ("paddlemix", (1,)),
    ],
)
def test_scale_and_bias_are_written_in_their_publishers_shape(publisher, shape):
    model = network("ViT", loss="sigmoid")
    naming = namings(model.backbone.released_names)[publisher]
    for name in ("logit_scale", "logit_bias"):
        array = model.state_dict()[name].numpy()
        (there,) = naming.write(
            name, StoredArray((), array.dtype, lambda array=array: array)
        ).items()
        assert there[0] == name and there[1].read().shape == shape


# ------------------------------------------------ TorchScript


def test_openais_own_format(tmp_path):
    """A tree of objects, as torch.jit.save writes it, in half precision."""
    arrays = with_settings(half(resnet()))
    path = tmp_path / "RN.pt"
    path.write_bytes(torch_script_of(arrays))
    model = network("ResNet")
    report = load_weights(model, path)
    assert report.publisher == "openai" and not report.kept
    plain = half(resnet())
    check(model, {name: array.astype(FLOAT) for name, array in expected(plain).items()})


def test_a_program_of_another_network(tmp_path):
    path = tmp_path / "other.pt"
    path.write_bytes(torch_script_of({"features.0.weight": np.zeros((4, 3), FLOAT)}))
    with pytest.raises(PasslError, match=r"its names belong to no release .* features\.0\.weight$"):
        load_weights(network(), path)


def test_a_program_cut_short_or_changed(tmp_path):
    content = torch_script_of({"visual.proj": np.ones((64, 64), FLOAT)})
    path = tmp_path / "file.pt"
    path.write_bytes(content[:-100])
    with pytest.raises(PasslError, match="is damaged.*; download it again, or take another$"):
        load_weights(network(), path)
    place = content.index(np.ones(64, FLOAT).tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with WeightFile(path) as file, pytest.raises(PasslError, match="visual.proj.*CRC"):
        file.read("visual.proj")


# ------------------------------------------------ other images, other texts


def test_positions_for_other_texts(tmp_path):
    """Linearly: torch.nn.functional.interpolate of [0, 3, 9] to five and to two."""
    arrays = vit(context=3)
    arrays["positional_embedding"] = np.outer([0, 3, 9], np.arange(WIDTH)).astype(FLOAT)
    path = of_torch(tmp_path, arrays)
    for count, rows in ((5, [0, 1.2, 3, 6.6, 9]), (4, [0, 1.875, 5.25, 9])):
        for new_head in (False, True):
            model = network(text={**TEXT, "context": count})
            report = load_weights(model, path, new_head=new_head)
            assert not report.kept
            np.testing.assert_allclose(
                model.text.pos_embed.numpy(), np.outer(rows, np.arange(WIDTH)), rtol=1e-6
            )


def test_another_text_tower_begins_anew_where_it_may(tmp_path):
    """A narrower one, of which none of the file's fits."""
    path = of_torch(tmp_path, vit())
    model = network(text={**TEXT, "embed_dim": 32})
    before = model.text.norm.weight.numpy()
    with pytest.raises(PasslError, match="29 of another shape: text.pos_embed"):
        load_weights(model, path)
    report = load_weights(model, path, new_head=True)
    assert {name.partition(".")[0] for name in report.kept} == {"text", "text_projection"}
    np.testing.assert_array_equal(model.text.norm.weight.numpy(), before)
    np.testing.assert_array_equal(model.image_projection.weight.numpy(), vit()["visual.proj"])


# ------------------------------------------------ and back


TARGETS = {
    "openai": (".pt", lambda a: a),
    "open_clip_custom": (".safetensors", custom),
    "huggingface": (".safetensors", huggingface),
    "passl_v1": (".pdparams", passl_v1),
    "paddlenlp": (".pdparams", paddlenlp),
    "paddlemix": (".pdparams", lambda a: in_paddle(parts_of_attention(a))),
}


@pytest.mark.parametrize("publisher", TARGETS)
def test_converted_files_are_those_of_the_publisher(publisher, tmp_path):
    suffix, rename = TARGETS[publisher]
    arrays = vit()
    source = of_safetensors(tmp_path, arrays)
    target = tmp_path / f"target{suffix}"
    families = {name: BACKBONES.attribute(name, "released_names", {}) for name in
                ("CLIPVisionTransformer", "CLIPResNet", "VisionTransformer")}  # fmt: skip
    done = convert_weights(source, target, families, publisher)
    assert (done.source, done.target) == ("openai", publisher)
    wanted = {n: a for n, a in rename(arrays).items() if not n.endswith("position_ids")}
    with WeightFile(target) as file:
        found = {name: file.read(name) for name in file.tensors}
    wanted = {name.removeprefix("model."): array for name, array in wanted.items()}
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# ------------------------------------------------ a table of an architecture's own


def test_an_architecture_may_bring_a_table_of_its_own(tmp_path):
    class Own(paddle.nn.Layer):
        released_names = {"somebody": ("torch", {"backbone": "tower", "gate": "gate"})}

        def __init__(self):
            super().__init__()
            self.backbone = paddle.nn.Linear(2, 3)
            self.gate = paddle.nn.Linear(3, 1)

    arrays = {"tower.weight": np.ones((3, 2), FLOAT), "tower.bias": np.ones(3, FLOAT),
              "gate.weight": np.ones((1, 3), FLOAT), "gate.bias": np.ones(1, FLOAT)}  # fmt: skip
    model = Own()
    report = load_weights(model, of_torch(tmp_path, arrays))
    assert report.publisher == "somebody" and len(report.loaded) == 4
    assert (model.gate.weight.numpy() == 1).all()


def test_tables_name_every_tensor_of_the_networks():
    """None of the arrays of a network of both towers is without a name."""
    for tower, publishers_of in (
        ("ViT", ("openai", "open_clip_custom", "huggingface", "passl_v1", "paddlenlp",
                 "paddlemix")),
        ("ResNet", ("openai", "open_clip_custom", "paddlenlp")),
    ):  # fmt: skip
        model = network(tower, loss="sigmoid")
        for publisher in publishers_of:
            naming = namings(model.backbone.released_names)[publisher]
            for name, tensor in model.state_dict().items():
                assert naming.to_there(name, tensor.ndim), (publisher, name)
