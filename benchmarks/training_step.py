#!/usr/bin/env python3
"""Training steps and inference of the MLP families, ViT and Swin, against PyTorch.

On the same processor. Each side is a process of its own; they take turns with images of the same
shape, so that what slows the machine down slows both down. PASSL makes the engine's own step
(forward, cross-entropy, backward, AdamW, every gradient looked at), PyTorch timm's network, or
the authors', with its own AdamW as it comes, or fused. A ratio is the median over the turns of
PyTorch's seconds to those of PASSL in that turn: above 1 is faster than PyTorch.

usage: python benchmarks/training_step.py --reference PYTHON --checkouts FOLDER
       [--networks mlp_mixer_s16_224 …] [--batch-sizes 8 32] [--repeats 5] [--fused] [--json FILE]
PYTHON: an interpreter with torch and timm. FOLDER: the authors' code of CycleMLP, ViP and ConvMLP,
see tests/reference/authors.py.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from side_by_side import compare, options, serve

ROOT = Path(__file__).resolve().parent.parent
SIZE, CLASSES = 224, 1000
# Ours -> timm's, or (repository, function) of the authors' code.
NETWORKS = {
    "mlp_mixer_s16_224": "mixer_s16_224",
    "resmlp_12_224": "resmlp_12_224",
    "gmlp_s16_224": "gmlp_s16_224",
    "cyclemlp_b1": ("CycleMLP", "CycleMLP_B1"),
    "vip_s7": ("VisionPermutator", "vip_s7"),
    "convmlp_s": ("Convolutional-MLPs", "convmlp_s"),
    "vit_s16_224": "vit_small_patch16_224",
    "swin_t_224": "swin_tiny_patch4_window7_224",
}


def passl_makes(name, count, threads, fused):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(ROOT))
    import passl

    # isort: split
    import itertools

    import paddle

    from passl.engine.precision import Precision
    from passl.engine.step import trial_step
    from passl.modeling.architectures import build_architecture
    from passl.solver import build_optimizer
    from passl.utils.config import get_config

    network = f"{{name: Classifier, architecture: {{name: {name}}}, head: {{name: "
    network += f"ClassificationHead, num_classes: {CLASSES}}}}}"
    overrides = [f"model={network}", "optimizer={name: AdamW, weight_decay: 0.05}", "amp=null"]
    cfg = get_config("mlp-mixer_s16_224", overrides)
    model = build_architecture(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model)
    batch = {
        "image": paddle.randn([count, 3, SIZE, SIZE]),
        "label": paddle.arange(count) % CLASSES,
    }
    make_step = trial_step(cfg, model, optimizer, Precision(None, "cpu"), count, 1)
    steps, batches = itertools.count(), itertools.repeat(batch)

    def train():
        model.train()
        make_step(next(steps), batches, 1e-4)

    def infer():
        model.eval()
        with paddle.no_grad():
            model({"image": batch["image"]})

    versions = {"PASSL": passl.__version__, "PaddlePaddle": paddle.__version__}
    return {"train": train, "infer": infer}, versions


def pytorch_makes(name, count, threads, fused, checkouts):
    import torch

    torch.set_num_threads(threads)
    model = reference_network(name, checkouts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused)
    images, labels = torch.randn(count, 3, SIZE, SIZE), torch.arange(count) % CLASSES

    def train():
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def infer():
        model.eval()
        with torch.inference_mode():
            model(images)

    import timm

    return {"train": train, "infer": infer}, {"torch": torch.__version__, "timm": timm.__version__}


def reference_network(name, checkouts):
    source = NETWORKS[name]
    if isinstance(source, str):
        import timm

        return timm.create_model(source)
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import authors

    module, _ = authors.load(checkouts, source[0])
    if source[0] == "CycleMLP":
        module.CycleFC.forward = shifted_and_mapped
    return getattr(module, source[1])()


def shifted_and_mapped(layer, x):
    """CycleFC as slices and a 1×1 convolution, which is less work than what its authors call.

    That is torchvision's deformable convolution, which has no build beside this PyTorch.
    """
    import torch

    offsets = layer.offset[0, :, 0, 0].reshape(-1, 2).int().tolist()
    height, width = x.shape[2:]
    most = max(max(abs(value) for value in pair) for pair in offsets)
    padded = torch.nn.functional.pad(x, [most] * 4)
    cycle = max(layer.kernel_size)
    moved = torch.empty_like(x)
    for first in range(cycle):
        down, along = (most + value for value in offsets[first])
        window = padded[:, first::cycle, down : down + height, along : along + width]
        moved[:, first::cycle] = window
    return torch.nn.functional.conv2d(moved, layer.weight, layer.bias)


def serve_one(arguments):
    settings = (arguments.serve, arguments.batch_sizes[0], arguments.threads, arguments.fused)
    if arguments.side == "PASSL":
        made = passl_makes(*settings)
    else:
        with contextlib.redirect_stdout(sys.stderr):  # the authors' code prints
            made = pytorch_makes(*settings, arguments.checkouts)
    serve(*made)


def measure(name, count, arguments):
    def side(which, python):
        command = [python, __file__, "--serve", name, "--side", which, "--threads"]
        command += [str(arguments.threads), "--batch-sizes", str(count)]
        command += ["--checkouts", arguments.checkouts] if arguments.checkouts else []
        return which, command + (["--fused"] if arguments.fused else [])

    pair = side("PASSL", sys.executable), side("PyTorch", arguments.reference)
    return compare(*pair, ("train", "infer"), arguments)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", metavar="PYTHON", help="an interpreter with torch and timm")
    parser.add_argument("--checkouts", metavar="FOLDER", help="checkouts of the authors' code")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8, 32])
    options(parser, steps=2, repeats=5, warmup=3, threads=os.cpu_count())
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW")
    arguments = parser.parse_args()
    if arguments.serve:
        serve_one(arguments)
        return
    if not arguments.reference:
        parser.error("--reference is needed")
    result = {}
    for name in arguments.networks:
        for count in arguments.batch_sizes:
            row = result[f"{name}, {count}"] = measure(name, count, arguments)
            cells = [
                f"{what} {cell['PASSL']:7.1f} : {cell['PyTorch']:7.1f} ms, {cell['ratio']:.2f} × "
                f"({cell['least']:.2f} to {cell['most']:.2f})"
                for what, cell in row.items()
                if what != "versions"
            ]
            print(f"{name:18} batch {count:3}   {'   '.join(cells)}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
