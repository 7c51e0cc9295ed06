#!/usr/bin/env python3
"""Do the self-supervised methods learn? Pre-trains on 10,000 images of CIFAR-10 without labels.

For each method and seed it trains by the small config of the method, and measures by k nearest
neighbours (10,000 test images against the 10,000 training images) how good the features are before
and after. Beside them stand raw pixels, and three controls that must fail: BYOL without predictor
and stop-gradient, SimCLR with shuffled partners, MoCo whose twin has no momentum. What is finished
is not made again; what was interrupted goes on.

usage: python scripts/self_supervised_cifar10.py [--output DIR] [--seeds 0 1 2] [--only NAME …]
       [--epochs N] [--threads N] [--reference PYTHON]
PYTHON: an interpreter with torch and lightly; the same is trained by lightly's parts, and stands
beside it.

It needs data/cifar10 (scripts/fetch_cifar10.sh), and takes about an hour on one core.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SETTINGS = {"k20": (20, 0.07), "k200": (200, 0.1)}
CONTROLS = "scripts/self_supervised_controls.py"
SMALL = "projector: {hidden: 512, out: 128}"
ARCHITECTURE = (
    "architecture: {name: ResNet, blocks: [1, 1, 1, 1], bottleneck: false, width: 16, stem: cifar}"
)
# Name: config, what is changed in it.
RUNS = {
    "SimCLR": ("simclr/simclr_cifar10_small", []),
    "MoCo v2": ("moco/moco_v2_cifar10_small", []),
    "BYOL": ("byol/byol_cifar10_small", []),
    "SimCLR, shuffled partners": (
        "simclr/simclr_cifar10_small",
        ["model.name=SimCLRShuffled", f"imports=[{CONTROLS}]"],
    ),
    "MoCo v2, m = 0": ("moco/moco_v2_cifar10_small", ["model.m=0.0"]),
    "BYOL, no predictor, no stop-gradient": (
        "byol/byol_cifar10_small",
        [f"model={{name: BYOLCollapsing, {ARCHITECTURE}, {SMALL}}}", f"imports=[{CONTROLS}]"],
    ),
}
METHODS = list(RUNS)[:3]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="output/self_supervised_cifar10", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--epochs", type=int, help="default: those of the configs")
    parser.add_argument("--threads", type=int, default=1, help="of each run (default: 1)")
    parser.add_argument("--reference", metavar="PYTHON", help="has lightly")
    parser.add_argument("--only-reference", action="store_true", help="nothing but lightly's runs")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.chdir(ROOT)
    results = arguments.output / "results"
    results.mkdir(parents=True, exist_ok=True)
    raw = results / "raw pixels.json"
    if not raw.exists():
        write(raw, raw_pixels())
    for name in arguments.only:
        for seed in arguments.seeds if name in METHODS else arguments.seeds[:1]:
            path = results / f"{name}, seed {seed}.json"
            if not path.exists() and not arguments.only_reference:
                write(path, run(arguments, name, seed))
            path = results / f"{name}, lightly, seed {seed}.json"
            if arguments.reference and name in METHODS and not path.exists():
                write(path, run_lightly(arguments, name, seed))
    everything = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }
    write(arguments.output / "results.json", everything)
    table = tell(results)
    (arguments.output / "table.md").write_text(table, encoding="utf-8")
    print(table)


def write(path, record):
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    aside.rename(path)


def run(arguments, name, seed):
    """Returns kNN before and after, and the last record of the run."""
    config, changes = RUNS[name]
    folder = arguments.output / f"{name}, seed {seed}"
    changes = [*changes, f"seed={seed}", "dataloader.val=null"]
    if arguments.epochs is not None:
        changes.append(f"epochs={arguments.epochs}")
    options = [part for change in changes for part in ("-o", change)]
    file = f"configs/{config}.yaml"
    command = [sys.executable, "tools/train.py", "-c", file, "--output-dir", str(folder), *options]
    subprocess.run([*command, "--resume", "auto"], check=True)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    # The features of this process: Paddle's random numbers are those of the seed.
    before, after = embedded(file, changes), embedded(file, changes, folder)
    return {
        "before": neighbours(*before),
        "after": neighbours(*after),
        "first": told[0],
        "last": told[-1],
        "images_per_second": float(np.median([record["images_per_second"] for record in told])),
    }


def run_lightly(arguments, name, seed):
    """Returns kNN before and after a run of lightly's parts on the same images."""
    from passl.datasets import build_dataset
    from passl.utils.config import get_config

    given = arguments.output / "images.npz"
    cfg = get_config(f"configs/{RUNS[name][0]}.yaml")
    labels = {}
    arrays = {}
    for split, section in (("train", cfg.dataloader.train), ("test", cfg.dataloader.val)):
        dataset = build_dataset({**section.dataset, "transforms": []})
        labels[split] = dataset.labels
        arrays[split] = np.stack([np.asarray(dataset.read(i)) for i in range(len(dataset))])
    np.savez(given, **arrays)
    out = arguments.output / f"{name}, lightly, seed {seed}.npz"
    epochs = str(arguments.epochs or cfg.epochs)
    script = ROOT / "tests" / "reference" / "lightly_cifar10.py"
    command = [arguments.reference, str(script), str(given), str(out), name, str(seed), epochs]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, env=environment)
    with np.load(out) as found:
        pairs = {
            when: [(found[f"{split}_{when}"], labels[split]) for split in ("train", "test")]
            for when in ("before", "after")
        }
        return {
            **{when: neighbours(*pair) for when, pair in pairs.items()},
            "last": {"loss": float(found["loss"])},
            "images_per_second": float(found["images_per_second"]),
        }


def embedded(file, changes, folder=None):
    """Returns features and labels of the training and of the test images."""
    import paddle

    from passl.datasets import EvaluationBatches, build_dataset, section_loader
    from passl.datasets.view import evaluated_section
    from passl.modeling.architectures import build_architecture
    from passl.utils.config import get_config
    from passl.utils.run_folder import LATEST, checkpoint_folder
    from passl.weights import load_weights

    cfg = get_config(file, [change for change in changes if not change.startswith("dataloader")])
    paddle.seed(cfg.seed)
    network = build_architecture(cfg.model)
    if folder is not None:
        load_weights(network, checkpoint_folder(folder) / LATEST)
    network.eval()
    found = []
    for split in ("train", "val"):
        section = evaluated_section(cfg, split)
        dataset = build_dataset(section.dataset)
        batches = EvaluationBatches(len(dataset), 250)
        loader = section_loader(section, dataset, batches, num_workers=0)
        with paddle.no_grad():
            features = [network(batch)["features"].numpy() for batch in loader]
        found.append((np.concatenate(features), dataset.labels))
    return found


def raw_pixels():
    from passl.datasets import build_dataset

    found = []
    for split, subset in (("train", "[:20%]"), ("test", None)):
        dataset = build_dataset(
            {"name": "CIFAR10", "dataroot": "data/cifar10", "split": split, "subset": subset}
        )
        rows = [np.asarray(dataset.read(i)).ravel() for i in range(len(dataset))]
        found.append((np.array(rows, np.float64) / 255 - 0.5, dataset.labels))
    return neighbours(*found)


def neighbours(bank, queries):
    """Returns the accuracy in % by k nearest neighbours, for each setting.

    Not by the project's own evaluator: whole matrices in NumPy, and nothing in common.
    """
    (keys, classes), (rows, labels) = bank, queries
    keys, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (keys, rows))
    right = dict.fromkeys(SETTINGS, 0)
    for begin in range(0, len(rows), 500):
        similarity = rows[begin : begin + 500] @ keys.T
        order = np.argsort(-similarity, axis=1, kind="stable")
        for setting, (k, temperature) in SETTINGS.items():
            nearest = order[:, :k]
            weights = np.exp(np.take_along_axis(similarity, nearest, 1) / temperature)
            votes = np.stack(
                [np.where(classes[nearest] == c, weights, 0).sum(1) for c in range(10)], axis=1
            )
            right[setting] += int((votes.argmax(1) == labels[begin : begin + 500]).sum())
    return {setting: 100 * count / len(rows) for setting, count in right.items()}


def labelled(results):
    """Yields (run, whose, seed, record) of all results that are there, in the order of ``RUNS``."""
    for name in RUNS:
        for whose in ("", ", lightly"):
            pattern = re.compile(re.escape(f"{name}{whose}, seed ") + r"(\d+)")
            for path in sorted(results.glob("*.json")):
                match = pattern.fullmatch(path.stem)
                if match:
                    yield name, whose, int(match[1]), json.loads(path.read_text(encoding="utf-8"))


def tell(results):
    """Returns all that is there as a Markdown table.

    Behind ± stands a standard error: of one run that of the 10,000 test images (binomial), of the
    means over seeds that of the runs.
    """
    lines = [
        "| run | kNN, k 20: before | after | k 200: before | after | spread | contrast | loss |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def percent(value):
        error = math.sqrt(value * (100 - value) / 10000)
        return f"{value:.2f} ± {error:.2f}"

    def add(label, accuracies, *rest):
        lines.append(f"| {' | '.join([label, *accuracies, *rest])} |")

    raw = json.loads((results / "raw pixels.json").read_text(encoding="utf-8"))
    add("raw pixels", [percent(raw["k20"]), "", percent(raw["k200"]), ""], "", "", "")
    columns = [(setting, when) for setting in SETTINGS for when in ("before", "after")]
    groups = {}
    for name, whose, seed, record in labelled(results):
        groups.setdefault(name + whose, {})[seed] = record
    for label, records in groups.items():
        for seed, record in records.items():
            last = record["last"]
            loss = f"{last['loss']:.3f}"
            if "first" in record:
                loss = f"{record['first']['loss']:.3f} → {loss}"
            add(
                f"{label}, seed {seed}",
                [percent(record[when][setting]) for setting, when in columns],
                f"{last['spread']:.2f}" if "spread" in last else "",
                f"{last['contrast_top1']:.1f} %" if "contrast_top1" in last else "",
                loss,
            )
        if len(records) > 1:
            values = [[r[when][setting] for r in records.values()] for setting, when in columns]
            means = [f"{np.mean(v):.2f} ± {np.std(v, ddof=1) / len(v) ** 0.5:.2f}" for v in values]
            add(f"**{label}, mean of {len(records)}**", means, "", "", "")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
