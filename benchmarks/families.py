#!/usr/bin/env python3
"""Small networks of all families on the quickstart's photographs: accuracy, parameters, speed.

Each has about as many parameters as the quickstart's Mixer, or as many stages as there is room for
in 64 pixels, and is trained by the quickstart's own recipe, which was made for the Mixer and tuned
for none. Speed is that of training steps on one batch of 32 that stays in memory; the networks take
turns, and a ratio is the median over the turns of the Mixer's time to the network's.

usage: python benchmarks/families.py [--train] [--networks ViT Swin …] [--seed 0] [--repeats 7]
       [--json FILE]
--train: also trains them, 30 epochs each (bash scripts/fetch_groceries.sh fetches the photographs).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import passl  # noqa: F401

# isort: split
import paddle

from passl.engine import train
from passl.modeling.architectures import build_architecture
from passl.modeling.layers.functional import single_backward
from passl.solver import build_optimizer
from passl.utils.config import get_config

CONFIG = "mlp-mixer_groceries"
NETWORKS = {
    "MLP-Mixer": None,  # the config's own
    "ResMLP": "{name: ResMlp, img_size: 64, patch_size: 8, embed_dim: 128, num_blocks: 6, "
    "channels_mlp_dim: 512, drop_path_rate: 0.1}",
    "gMLP": "{name: Gmlp, img_size: 64, patch_size: 8, embed_dim: 128, num_blocks: 6, "
    "channels_mlp_dim: 768, drop_path_rate: 0.1}",
    "CycleMLP": "{name: CycleMlp, embed_dims: [32, 64, 128, 128], depths: [1, 1, 2, 1], "
    "mlp_ratios: [4, 4, 4, 4], drop_path_rate: 0.1}",
    "ViP": "{name: VisionPermutator, img_size: 64, patch_size: 8, embed_dims: [128], "
    "depths: [6], halved: [], mlp_ratio: 3, drop_path_rate: 0.1}",
    "ConvMLP": "{name: ConvMlp, stem_channels: 32, conv_depth: 1, embed_dims: [64, 96, 128], "
    "depths: [1, 2, 2], mlp_ratios: [2, 2, 2], drop_path_rate: 0.1}",
    "ViT": "{name: VisionTransformer, img_size: 64, patch_size: 8, embed_dim: 128, num_blocks: 4, "
    "num_heads: 4, drop_path_rate: 0.1}",
    "DeiT": "{name: DistilledVisionTransformer, img_size: 64, patch_size: 8, embed_dim: 128, "
    "num_blocks: 4, num_heads: 4, drop_path_rate: 0.1}",
    "Swin": "{name: SwinTransformer, img_size: 64, embed_dim: 32, depths: [2, 2, 4], "
    "num_heads: [1, 2, 4], window_size: 4, drop_path_rate: 0.1}",
    "BEiT": "{name: Beit, img_size: 64, patch_size: 8, embed_dim: 128, num_blocks: 4, "
    "num_heads: 4, drop_path_rate: 0.1}",
    "CvT": "{name: Cvt, embed_dims: [32, 64, 128], depths: [1, 2, 3], num_heads: [1, 2, 4], "
    "drop_path_rates: [0.0, 0.0, 0.1]}",
    "T2T-ViT": "{name: T2tVit, img_size: 64, embed_dim: 128, num_blocks: 4, num_heads: 4, "
    "mlp_ratio: 3.0, drop_path_rate: 0.1}",
}


def config_of(name, *overrides):
    chosen = NETWORKS[name]
    extra = [] if chosen is None else [f"model.architecture={chosen}"]
    if name == "DeiT":
        extra += ["model.head.name=DistilledHead"]
    return get_config(CONFIG, [*extra, *overrides])


def stepper(name):
    cfg = config_of(name)
    network = build_architecture(cfg.model)
    optimizer = build_optimizer(cfg.optimizer, network)
    network.train()
    count = cfg.dataloader.train.sampler.batch_size
    batch = {
        "image": paddle.randn([count, 3, 64, 64]),
        "label": paddle.arange(count) % network.num_classes,
    }

    def step():
        with single_backward():
            network(batch)["loss"].backward()
        optimizer.step(1e-4)

    return step, sum(p.size for p in network.parameters()), count


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5, help="a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    names = list(dict.fromkeys(["MLP-Mixer", *arguments.networks]))
    steppers = {name: stepper(name) for name in names}
    seconds = {name: [] for name in names}
    for step, _, _ in steppers.values():
        step()
    for _ in range(arguments.repeats):
        for name, (step, _, _) in steppers.items():
            started = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            seconds[name].append((time.perf_counter() - started) / arguments.steps)
    result = {}
    for name, (_, parameters, count) in steppers.items():
        ratios = [a / b for a, b in zip(seconds["MLP-Mixer"], seconds[name])]
        result[name] = {
            "parameters": parameters,
            "images_per_second": count / statistics.median(seconds[name]),
            "ratio": statistics.median(ratios),
        }
    if arguments.train:
        for name in arguments.networks:
            folder = f"output/families/{name}-seed{arguments.seed}"
            cfg = config_of(name, f"seed={arguments.seed}", f"output_dir={folder}")
            result[name]["top1"] = train(cfg, resume="auto")["top1"]
    for name, row in result.items():
        top1 = f"  test Top-1 {row['top1']:.2f} %" if "top1" in row else ""
        print(
            f"{name:10} {row['parameters']:>9,} parameters "
            f"{row['images_per_second']:7.1f} images/s {row['ratio']:5.2f} × the Mixer's{top1}"
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
