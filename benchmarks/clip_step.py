#!/usr/bin/env python3
"""Training steps of CLIP, embeddings, and zero-shot classifiers, beside open_clip in PyTorch.

On the same processor. Each side is a process of its own; they take turns with batches of the same
shape. PASSL makes the engine's own step (forward, loss, backward, AdamW, every gradient looked at,
the scale clamped), PyTorch that of open_clip's network, loss and trainer
(tests/reference/open_clip_emoji.py). Data loading plays no part. A classifier is made of some of
ImageNet's names in the 80 sentences of CLIP's authors, as each library makes it, tokenizer
included. A ratio is the median over the turns of PyTorch's seconds to those of PASSL in that turn:
above 1 is faster than PyTorch. Memory is the most that a process had in its training steps, above
what it had with its libraries imported: weights, gradients, the optimizer's state, activations.

usage: python benchmarks/clip_step.py --reference PYTHON [--networks emoji:128 ViT-B/32:8 RN50:8]
       [--names 4] [--threads 1] [--repeats 5] [--json FILE]
PYTHON: an interpreter with torch and open_clip. Behind a network stand the pairs of a step.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

from side_by_side import compare, memory, options, serve

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "clip" / "clip_emoji.yaml"
# Name: what is changed in the config, the network's name in open_clip.
NETWORKS = {
    "emoji": ([], None),
    "ViT-B/32": (
        [
            "model.architecture={name: clip_vit_b32_224, quick_gelu: true}",
            "model.text={quick_gelu: true}",
            "model.embed_dim=512",
            "model.project_images=true",
        ],
        "ViT-B-32-quickgelu",
    ),
    "RN50": (
        [
            "model.architecture={name: clip_resnet50_224}",
            "model.text={quick_gelu: true}",
            "model.embed_dim=1024",
        ],
        "RN50-quickgelu",
    ),
}
WHATS = ("train", "images", "texts", "zero_shot")


def passl_makes(name, count, names, threads):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(ROOT))
    import passl

    # isort: split
    import numpy as np
    import paddle

    from passl.engine.precision import Precision
    from passl.engine.step import trial_step
    from passl.evaluation import zero_shot
    from passl.modeling.architectures import build_architecture
    from passl.solver import build_optimizer
    from passl.utils.config import get_config

    before = memory("VmRSS")
    cfg = get_config(str(CONFIG), NETWORKS[name][0])
    model = build_architecture(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model)
    pixels, ids = made_up(count, size_of(name), model.context)
    batch = {"image": paddle.to_tensor(pixels), "text": paddle.to_tensor(ids)}
    make_step = trial_step(cfg, model, optimizer, Precision(None, "cpu"), count, 1)
    batches = itertools.repeat(batch)
    zero_shot._kept = lambda *_: None  # it is to be made each time
    classes = zero_shot.imagenet_names()[:names]
    templates = zero_shot.read_templates("imagenet")

    def train():
        model.train()
        make_step(0, batches, 1e-4)

    def images():
        model.eval()
        with paddle.no_grad():
            model.embed_images(batch["image"])

    def texts():
        model.eval()
        with paddle.no_grad():
            model.embed_texts(batch["text"])

    def classifier():
        found = zero_shot.zero_shot_classifier(model, classes, templates)
        assert np.isfinite(found.numpy()).all()

    versions = {"PASSL": passl.__version__, "PaddlePaddle": paddle.__version__}
    doing = dict(zip(WHATS, (train, images, texts, classifier)))
    return doing, versions, {"memory": lambda: memory("VmHWM") - before}


def open_clip_makes(name, count, names, threads):
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import open_clip
    import torch
    from open_clip_emoji import descent, network, step

    torch.set_num_threads(threads)
    before = memory("VmRSS")
    if NETWORKS[name][1] is None:
        model = network(
            {
                "embed_dim": 128,
                "quick_gelu": True,
                "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32},
                "text_cfg": {"context_length": 16, "width": 64, "heads": 2, "layers": 2},
            }
        )
    else:
        model = open_clip.create_model(NETWORKS[name][1])
    recipe = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-6, "weight_decay": 0.2}
    optimizer = descent(model, recipe)
    loss = open_clip.ClipLoss()
    pixels, ids = made_up(count, size_of(name), model.context_length)
    batch = torch.from_numpy(pixels), torch.from_numpy(ids)
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    classes = open_clip.IMAGENET_CLASSNAMES[:names]

    def train():
        # The loss is read, as the trainer does; PASSL's step looks at every gradient.
        step(model, optimizer, loss, *batch, 1e-4).item()

    def images():
        model.eval()
        with torch.inference_mode():
            model.encode_image(batch[0])

    def texts():
        model.eval()
        with torch.inference_mode():
            model.encode_text(batch[1])

    def classifier():
        model.eval()
        with torch.inference_mode():
            open_clip.build_zero_shot_classifier(
                model, tokenizer, classes, open_clip.OPENAI_IMAGENET_TEMPLATES
            )

    versions = {"torch": torch.__version__, "open_clip": open_clip.__version__}
    doing = dict(zip(WHATS, (train, images, texts, classifier)))
    return doing, versions, {"memory": lambda: memory("VmHWM") - before}


def size_of(name):
    return 32 if NETWORKS[name][1] is None else 224


def made_up(count, size, context):
    """Returns pixels and ids of as many pairs; texts fill the context."""
    import numpy as np

    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((count, 3, size, size), np.float32)
    ids = rng.integers(1, 49_406, (count, context))
    ids[:, 0], ids[:, -1] = 49_406, 49_407
    return pixels, ids


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", metavar="PYTHON", help="has torch and open_clip")
    parser.add_argument("--networks", nargs="+", default=["emoji:128", "ViT-B/32:8", "RN50:8"])
    parser.add_argument("--names", type=int, default=4, help="of a zero-shot classifier")
    options(parser, steps=1, repeats=5, warmup=1, threads=1)
    arguments = parser.parse_args()
    if arguments.serve:
        name, _, count = arguments.serve.partition(":")
        makes = passl_makes if arguments.side == "PASSL" else open_clip_makes
        serve(*makes(name, int(count), arguments.names, arguments.threads))
        return
    if not arguments.reference:
        parser.error("--reference is needed")
    for given in arguments.networks:
        name, _, count = given.partition(":")
        if name not in NETWORKS or not count.isdecimal():
            parser.error(f"a network is one of {', '.join(NETWORKS)}, and pairs: not '{given}'")
    result = {}
    for given in arguments.networks:
        pair = [
            (side, [python, __file__, "--serve", given, "--side", side,
                    "--names", str(arguments.names), "--threads", str(arguments.threads)])
            for side, python in (("PASSL", sys.executable), ("PyTorch", arguments.reference))
        ]  # fmt: skip
        row = result[given] = compare(*pair, WHATS, arguments, told=["memory"])
        count = int(given.partition(":")[2])
        print(f"{given}: {row['versions']}")
        for what in WHATS:
            cell = row[what]
            shown = [cell[side] / 1e3 for side in ("PASSL", "PyTorch")]
            unit = "s"
            if what != "zero_shot":
                shown, unit = (
                    [count / seconds for seconds in shown],
                    f"{'pairs' if what == 'train' else what}/s",
                )
            print(
                f"  {what:9} {shown[0]:8.2f} : {shown[1]:8.2f} {unit:8} "
                f"{cell['ratio']:.2f} × ({cell['least']:.2f} to {cell['most']:.2f})"
            )
        here, there = (row["memory"][side] / 2**20 for side in ("PASSL", "PyTorch"))
        print(f"  memory    {here:8.0f} : {there:8.0f} MiB", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
