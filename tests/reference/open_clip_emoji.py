"""Trains a small CLIP of open_clip's from weights, batches and a recipe that are given.

For scripts/clip_emoji.py. FOLDER holds ``images.npy``, uint8 ``[steps, N, H, W, 3]``,
``texts.npy``, int32 ``[steps, N, L]``, ``weights.npz`` by open_clip's names, ``test.npz``
(``images``, ``texts``) and ``recipe.json``. OUT.npz gets ``losses`` and ``scales`` of every step,
``image_embedding`` and ``text_embedding`` of the test pairs, not normalised, and ``parameters``,
how many numbers are learned. Of the first steps (``compared`` of them) it also gets losses
``in_float64``, and ``reversed``: with the pairs of each batch the other way round, which changes
no loss but for the order of sums.

Network, loss, groups of weight decay and the bounds of the scale are those of open_clip and of its
trainer (open_clip_train/main.py, train.py).

    python tests/reference/open_clip_emoji.py FOLDER OUT.npz
"""

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP


def network(recipe, state=None):
    """Returns open_clip's network, with a state by its names where one is given."""
    model = CLIP(
        recipe["embed_dim"], recipe["vision_cfg"], recipe["text_cfg"], recipe["quick_gelu"]
    )
    if state is not None:
        state = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            sys.exit(f"error: missing {missing}, unexpected {unexpected}")
    return model


def descent(model, recipe):
    """Returns open_clip_train's AdamW."""
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim < 2 or any(
            part in name for part in ("bn", "ln", "bias", "logit_scale")
        )
        (plain if exempt else decayed).append(parameter)
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": decayed, "weight_decay": recipe["weight_decay"]},
    ]
    betas = recipe["beta1"], recipe["beta2"]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=recipe["epsilon"])


def step(model, optimizer, loss_of, images, texts, rate):
    """Makes an optimizer step; returns its loss."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    found = model(images, texts)
    found = found if isinstance(found, tuple) else tuple(found.values())
    loss = loss_of(*found[:3])
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(100))
    return loss


def embedded(model, images, texts):
    """Returns embeddings of images and of texts, not normalised."""
    model.eval()
    with torch.no_grad():
        return model.encode_image(images).numpy(), model.encode_text(texts).numpy()


class Training:
    """A network, its weights and its optimizer.

    Args:
        recipe: see above.
        state: weights by open_clip's names.
        dtype: of all that is computed.
    """

    def __init__(self, recipe, state, dtype=torch.float32):
        self.dtype, self.model = dtype, network(recipe, state).to(dtype)
        for module in self.model.modules():  # Paddle takes what float32 makes of it
            if hasattr(module, "eps"):
                module.eps = float(np.float32(module.eps))
        self.optimizer, self.loss_of = descent(self.model, recipe), ClipLoss()
        self.mean, self.std = (
            torch.tensor(recipe[key], dtype=dtype).reshape(3, 1, 1) for key in ("mean", "std")
        )

    def tensors(self, images, texts):
        """Returns pixels uint8 ``[N, H, W, 3]`` and ids as the network takes them."""
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(self.dtype) / 255
        return (pixels - self.mean) / self.std, torch.from_numpy(texts.astype(np.int64))

    def step(self, images, texts, rate):
        """Makes a step on a batch; returns its loss."""
        batch = self.tensors(images, texts)
        return step(self.model, self.optimizer, self.loss_of, *batch, rate).item()


def main():
    folder, out = Path(sys.argv[1]), sys.argv[2]
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    torch.set_num_threads(recipe["threads"])
    torch.manual_seed(0)
    with np.load(folder / "weights.npz") as arrays:
        state = dict(arrays)
    # One batch after the other, from the disk: all of them are hundreds of megabytes.
    images, texts = (np.load(folder / f"{key}.npy", mmap_mode="r") for key in ("images", "texts"))
    rates, found = recipe["rates"], {}
    for name, dtype, order in (("in_float64", torch.float64, 1), ("reversed", torch.float32, -1)):
        training = Training(recipe, state, dtype)
        found[name] = [
            training.step(images[i][::order], texts[i][::order], rate)
            for i, rate in enumerate(rates[: recipe["compared"]])
        ]
    training = Training(recipe, state)
    losses, scales = [], []
    begun = time.perf_counter()
    for i, rate in enumerate(rates):
        losses.append(training.step(images[i], texts[i], rate))
        scales.append(training.model.logit_scale.exp().item())
        if i % 50 == 49 or i + 1 == len(rates):
            speed = (i + 1) * len(images[i]) / (time.perf_counter() - begun)
            print(f"step {i + 1}: loss {losses[-1]:.3f}, {speed:.0f} images/s", flush=True)
    with np.load(folder / "test.npz") as test:
        image, text = embedded(training.model, *training.tensors(test["images"], test["texts"]))
    count = sum(p.numel() for p in training.model.parameters())
    np.savez(
        out, losses=losses, scales=scales, image_embedding=image, text_embedding=text,
        parameters=count, **found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
