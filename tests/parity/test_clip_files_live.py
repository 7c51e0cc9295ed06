"""Files as open_clip, TorchScript, timm and transformers write them give the same embeddings.

And those of open_clip where positions are resized, by each as it does that.
"""

import clip  # noqa: F401  registers the tokenizer of a hundred ids
import numpy as np
import paddle
import pytest

from passl.modeling.architectures import build_architecture
from passl.weights import load_weights

TEXT = {"embed_dim": 64, "num_blocks": 2, "num_heads": 2, "vocabulary": 100, "quick_gelu": True}
TOWERS = {
    "vit": {
        "name": "CLIPVisionTransformer", "patch_size": 16, "embed_dim": 64, "num_blocks": 2,
        "num_heads": 2, "quick_gelu": True,
    },
    "resnet": {"name": "CLIPResNet", "blocks": [1, 2, 1, 1], "width": 16, "embed_dim": 64},
}  # fmt: skip


def network(kind, size, context=10):
    made = build_architecture(
        {
            "name": "CLIP",
            "architecture": {**TOWERS[kind], "img_size": size},
            "text": {**TEXT, "context": context},
            "embed_dim": 64,
            "project_images": kind == "vit",
            "tokenizer": {"name": "HundredIds"},
        }
    )
    made.eval()
    return made


def close(found, wanted, name):
    """To what float32 gives: of embeddings that are about 1."""
    difference = np.abs(found.numpy() - wanted).max() / np.abs(wanted).max()
    print(name, f"{difference:.1e}")
    assert difference < 1e-5, name


# Seen with torch 2.13.0, open_clip 3.3.0, timm 1.0.31, transformers 5.24.0: at most 6.6e-7.
@pytest.mark.reference
@pytest.mark.parametrize("kind", TOWERS)
def test_embeddings_of_files_as_their_publishers_write_them(reference, tmp_path, kind):

    reference("clip_files.py", kind, tmp_path)
    with np.load(tmp_path / "answers.npz") as arrays:
        theirs = dict(arrays)
    pixels, ids = paddle.to_tensor(theirs["pixels"]), paddle.to_tensor(theirs["ids"])
    files = {"open_clip.bin": "openai", "program.pt": "openai"}
    if kind == "vit":
        files.update({"huggingface.bin": "huggingface", "timm.bin": "timm"})
    for file, publisher in files.items():
        paddle.seed(0)
        model = network(kind, pixels.shape[-1])
        report = load_weights(model, tmp_path / file, new_head=file == "timm.bin")
        assert report.publisher == publisher
        half = "half_" if file == "program.pt" else ""
        with paddle.no_grad():
            close(model.embed_images(pixels), theirs[f"{half}image"], file)
            if file != "timm.bin":
                assert not report.kept
                close(model.embed_texts(ids), theirs[f"{half}text"], file)
    if kind == "vit":
        assert np.abs(theirs["half_image"] - theirs["image"]).max() > 1e-4
        larger = network(kind, theirs["large_pixels"].shape[-1], theirs["long_ids"].shape[-1])
        load_weights(larger, tmp_path / "open_clip.bin")
        with paddle.no_grad():
            images = larger.embed_images(paddle.to_tensor(theirs["large_pixels"]))
            texts = larger.embed_texts(paddle.to_tensor(theirs["long_ids"]))
        close(images, theirs["large_image"], "resized images")
        close(texts, theirs["long_text"], "resized texts")
