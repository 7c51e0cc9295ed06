"""CLIP beside open_clip as it runs."""

import json

import numpy as np
import paddle
import pytest
from clip import open_clip_state, pairs, small_clip, small_pairs
from odd_texts import odd_texts
from stepping import stepping

from passl.modeling.architectures import build_architecture
from passl.tokenization import CLIPTokenizer


@pytest.mark.reference
def test_ten_thousand_odd_texts_have_the_same_ids(reference, tmp_path):
    # Whose own names of start and end become these even where a text spells them.
    texts = [text for text in odd_texts(10_000) if "_of_text>" not in text]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    reference("open_clip_tokens.py", tmp_path / "texts.json", tmp_path / "ids.npy")
    ids, _ = CLIPTokenizer()(texts)
    np.testing.assert_array_equal(ids, np.load(tmp_path / "ids.npy"))


def compare(reference, tmp_path, network, model, batches, dtype, **recipe):
    """Makes the same steps here and there; returns what both found, by open_clip's names."""
    recipe = {
        "rate": 2**-10,
        "betas": [0.875, 0.96875],
        "epsilon": 2**-20,
        "decay": 0.125,
        **recipe,
    }
    given = {f"state/{name}": array for name, array in open_clip_state(network).items()}
    for field in ("image", "text"):
        given[field] = np.stack([batch[field].numpy() for batch in batches])
    np.savez(tmp_path / "given.npz", **given)
    recipe = {"model": model, "dtype": dtype, **recipe}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    files = [tmp_path / name for name in ("given.npz", "out.npz", "recipe.json")]
    reference("open_clip_networks.py", *files)
    theirs = dict(np.load(files[1]))
    network.eval()
    with paddle.no_grad():
        outputs = network(batches[0])
    ours = {"image": outputs["image_embedding"].numpy(), "text": outputs["text_embedding"].numpy()}
    betas = dict(zip(("beta1", "beta2"), recipe["betas"]))
    step, optimizer = stepping(
        network, len(batches[0]["text"]), rate=recipe["rate"], name="AdamW",
        epsilon=recipe["epsilon"], weight_decay=recipe["decay"], **betas,
    )  # fmt: skip
    make, gradients = optimizer.step, {}

    def recording(rate):
        for key, parameter in network.named_parameters():
            gradients.setdefault(key, parameter.grad.numpy())
        return make(rate)

    optimizer.step = recording
    losses = [step(number, batch).losses[0].item() for number, batch in enumerate(batches)]
    ours["losses"] = np.array(losses)
    for name, array in open_clip_state(network).items():
        ours[f"state/{name}"] = array
    for name, array in open_clip_state(network, gradients).items():
        ours[f"gradient/{name}"] = array
    return ours, theirs


NORM_EPSILON = 2**-17
RECIPE = {"rate": 2**-10, "betas": [0.875, 0.96875], "epsilon": 2**-20, "decay": 0.125}
MODELS = {
    "ViT": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 10, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2,
        },
    },
    "ResNet": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16},
        "text_cfg": {
            "context_length": 10, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2,
        },
    },
}  # fmt: skip


@pytest.mark.reference
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("tower", ["ViT", "ResNet"])
def test_ten_steps_of_training(tower, loss, reference, tmp_path):
    network = small_clip(tower, "float64", loss=loss)
    for layer in network.sublayers():  # of 1e-5, Paddle takes what float32 makes of it
        if hasattr(layer, "_epsilon"):
            layer._epsilon = NORM_EPSILON
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.875
    model = {**MODELS[tower], "init_logit_scale": network.logit_scale.item()}
    if loss == "sigmoid":
        model["init_logit_bias"] = -10.0
    batches = [small_pairs(tower, 6, seed, "float64") for seed in range(10)]
    ours, theirs = compare(
        reference, tmp_path, network, model, batches, "float64",
        sigmoid=loss == "sigmoid", norm_epsilon=NORM_EPSILON,
    )  # fmt: skip
    compared = 0
    for name, expected in theirs.items():
        # Running variances are those of batches here, of what they are drawn from there.
        if not name.endswith(("num_batches_tracked", "running_var")):
            found = ours[name].reshape(expected.shape)
            np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0, err_msg=name)
            compared += 1
    assert compared == len([name for name in ours if not name.endswith("running_var")])


WORDS = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
# open_clip/model_configs/RN50.json and ViT-B-32-quickgelu.json
REAL = {
    "RN50": (
        {
            "architecture": {"name": "clip_resnet50_224"},
            "embed_dim": 1024,
            "project_images": False,
        },
        {"embed_dim": 1024, "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64}},
    ),
    "ViT-B-32-quickgelu": (
        {"architecture": {"name": "clip_vit_b32_224", "quick_gelu": True}, "embed_dim": 512},
        {
            "embed_dim": 512,
            "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        },
    ),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", ["RN50", "ViT-B-32-quickgelu"])
def test_random_weights_of_the_real_networks(name, reference, tmp_path):
    """Features, loss and gradients of the first step in float32."""
    here, there = REAL[name]
    paddle.seed(0)
    network = build_architecture({"name": "CLIP", "text": {"quick_gelu": True}, **here})
    model = {**there, "quick_gelu": True, "text_cfg": WORDS}
    ours, theirs = compare(reference, tmp_path, network, model, [pairs(4, 224)], "float32")
    for key in ("image", "text", "losses"):
        scale = np.abs(theirs[key]).max()
        assert np.abs(ours[key] - theirs[key]).max() <= 1e-5 * scale, key
    gradients = {key: array for key, array in theirs.items() if key.startswith("gradient/")}
    largest = max(np.abs(expected).max() for expected in gradients.values())
    for key, expected in gradients.items():
        scale = max(np.abs(expected).max(), 1e-4 * largest)  # of a key's bias it is none
        assert np.abs(ours[key].reshape(expected.shape) - expected).max() <= 1e-3 * scale, key
