#!/usr/bin/env python3
"""Training steps of SimCLR, MoCo v2 and BYOL, and features, beside lightly's parts in PyTorch.

On the same processor. Each side is a process of its own; they take turns with views of the same
shape. PASSL makes the engine's own step of the small CIFAR-10 configs (forward, loss, backward,
SGD, every gradient looked at, twin and queue), PyTorch the same method of lightly's heads and
losses (tests/reference/lightly_cifar10.py). Data loading plays no part. A ratio is the median over
the turns of PyTorch's seconds to those of PASSL in that turn: above 1 is faster than PyTorch.

usage: python benchmarks/self_supervised_step.py --reference PYTHON [--methods SimCLR …]
       [--sizes 16:128 64:32] [--threads 1] [--repeats 5] [--json FILE]
PYTHON: an interpreter with torch and lightly. A size is the width of the network, and the images
of a step, each of two views.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

from side_by_side import compare, options, serve

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32
CONFIGS = {
    "SimCLR": "simclr/simclr_cifar10_small",
    "MoCo v2": "moco/moco_v2_cifar10_small",
    "BYOL": "byol/byol_cifar10_small",
}


def passl_makes(name, width, count, threads):
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.path.insert(0, str(ROOT))
    import passl

    # isort: split
    import paddle

    from passl.engine.precision import Precision
    from passl.engine.step import trial_step
    from passl.modeling.architectures import build_architecture
    from passl.solver import build_optimizer
    from passl.utils.config import get_config

    config = ROOT / "configs" / f"{CONFIGS[name]}.yaml"
    cfg = get_config(str(config), [f"model.architecture.width={width}"])
    model = build_architecture(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, model)
    batch = {key: paddle.randn([count, 3, SIZE, SIZE]) for key in ("image", "image_1")}
    make_step = trial_step(cfg, model, optimizer, Precision(None, "cpu"), count, 1)
    rate = cfg.lr_scheduler.learning_rate
    batches = itertools.repeat(batch)

    def train():
        model.train()
        # Step 0 each time: the schedules of a run of one step have no other.
        make_step(0, batches, rate)

    def infer():
        model.eval()
        with paddle.no_grad():
            model({"image": batch["image"]})

    versions = {"PASSL": passl.__version__, "PaddlePaddle": paddle.__version__}
    return {"train": train, "infer": infer}, versions


def lightly_makes(name, width, count, threads):
    sys.path.insert(0, str(ROOT / "tests" / "reference"))
    import lightly
    import torch
    from lightly_cifar10 import Method, descent

    torch.set_num_threads(threads)
    method = Method(name, width)
    optimizer = descent(method)
    one, two = torch.randn(2, count, 3, SIZE, SIZE)

    def train():
        method.train()
        loss = method.loss(one, two)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.follow(0.0)

    def infer():
        method.eval()
        with torch.inference_mode():
            method.backbone(one)

    versions = {"torch": torch.__version__, "lightly": lightly.__version__}
    return {"train": train, "infer": infer}, versions


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", metavar="PYTHON", help="has torch and lightly")
    parser.add_argument("--methods", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--sizes", nargs="+", default=["16:128", "64:32"])
    options(parser, steps=2, repeats=5, warmup=3, threads=1)
    arguments = parser.parse_args()
    if arguments.serve:
        width, count = map(int, arguments.sizes[0].split(":"))
        makes = passl_makes if arguments.side == "PASSL" else lightly_makes
        serve(*makes(arguments.serve, width, count, arguments.threads))
        return
    if not arguments.reference:
        parser.error("--reference is needed")
    result = {}
    for size, name in itertools.product(arguments.sizes, arguments.methods):
        pair = [
            (side, [python, __file__, "--serve", name, "--side", side, "--sizes", size,
                    "--threads", str(arguments.threads)])
            for side, python in (("PASSL", sys.executable), ("PyTorch", arguments.reference))
        ]  # fmt: skip
        row = result[f"{name}, {size}"] = compare(*pair, ("train", "infer"), arguments)
        count = int(size.split(":")[1])
        cells = [
            f"{what} {1e3 * count / cell['PASSL']:6.0f} : {1e3 * count / cell['PyTorch']:6.0f} "
            f"images/s, {cell['ratio']:.2f} × ({cell['least']:.2f} to {cell['most']:.2f})"
            for what, cell in row.items()
            if what != "versions"
        ]
        print(f"{name:8} {size:8} {'   '.join(cells)}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
