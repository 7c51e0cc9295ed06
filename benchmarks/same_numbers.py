#!/usr/bin/env python3
"""Does the code still give the numbers of an earlier revision, to the last bit?

Trains five small configs with both: a Mixer with every augmentation and two workers; a network with
batch norms; a moving average with accumulation, repeated augmentation and layer-wise rates; two
processes; and a run that goes on in the middle, also from a checkpoint that the earlier code wrote.
Compares every record (but for the clock) and every tensor of the checkpoints, evaluates with the
later code what the earlier one trained, resolves every shipped config with both, and imports the
names that the earlier pages and tests import.

usage: python benchmarks/same_numbers.py REVISION [--only mixer …]

The exit status is 1 where anything differs. Needs git; takes about four minutes.
"""

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 7
CLOCK = ("images_per_second", "seconds", "step_seconds", "data_seconds", "memory_mb")
RESOLVE = """
import json, sys
from passl.utils.config import get_config, plain
json.dump({path: plain(get_config(path)) for path in sys.argv[1:]}, sys.stdout)
"""
ARRAYS = """
import hashlib, json, sys
import numpy as np
from passl.weights import WeightFile
with WeightFile(sys.argv[1]) as file:
    arrays = {name: np.ascontiguousarray(file.read(name)) for name in file.tensors}
json.dump({name: hashlib.sha256(array).hexdigest() for name, array in arrays.items()}, sys.stdout)
"""


def write_images(root):
    """Images of seven classes, each with a colour of its own under noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 126), ("val", 35), ("test", 21)):
        for i in range(count):
            folder = root / split / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            colour = np.array([37 * (i % CLASSES) % 256, 91 * (i % CLASSES) % 256, 128])
            pixels = colour + rng.normal(0, 60, (rng.integers(24, 40), rng.integers(24, 40), 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    (root / "train" / "class2" / "100.png").write_bytes(b"not an image")


def config(images, network, **changes):
    """A run of a few epochs over these images."""

    def section(split, transforms):
        return {
            "dataset": {
                "name": "ImageFolder",
                "dataroot": str(images / split),
                "transforms": transforms,
            },
            "batch_transforms": [{"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}],
            "sampler": {"batch_size": 6},
            "loader": {"num_workers": 0},
        }

    crop = {"name": "RandomResizedCrop", "size": 32}
    view = {"name": "ResizeCenterCrop", "size": 32, "crop_ratio": 0.875}
    values = {
        "model": {
            "architecture": network,
            "head": {"name": "ClassificationHead", "num_classes": CLASSES},
        },
        "epochs": 2,
        "seed": 3,
        "dataloader": {
            "train": section("train", [crop, {"name": "RandomHorizontalFlip"}]),
            "val": section("val", [view]),
            "test": section("test", [view]),
        },
        "lr_scheduler": {"name": "Cosine", "learning_rate": 0.01, "warmup_steps": 3},
        "optimizer": {"name": "AdamW", "weight_decay": 0.05, "grad_clip": 1.0},
        "log_config": {"interval": 3},
        "checkpoint": {"interval_steps": 8, "keep": 9},
        **changes,
    }
    return values


MIXER = {
    "name": "MlpMixer",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "num_blocks": 3,
    "tokens_mlp_dim": 24,
    "channels_mlp_dim": 96,
    "drop_rate": 0.1,
    "drop_path_rate": 0.2,
}
CONV_MLP = {
    "name": "ConvMlp",
    "stem_channels": 8,
    "conv_depth": 1,
    "embed_dims": [8, 12, 16],
    "depths": [1, 1, 1],
    "mlp_ratios": [1, 1, 1],
}


def configs(images):
    """The five, by name: (config, processes)."""
    every = config(images, MIXER)
    train = every["dataloader"]["train"]
    train["dataset"]["transforms"] += [
        {"name": "ColorJitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
        {"name": "RandAugment"},
        {"name": "AutoAugment"},
        {"name": "TrivialAugment"},
        {"name": "RandomErasing", "probability": 0.5},
    ]
    train["batch_transforms"] += [{"name": "Mixup", "mixup_alpha": 0.4, "cutmix_alpha": 1.0}]
    train["loader"]["num_workers"] = 2

    average = config(images, MIXER, ema={"decay": 0.9}, global_batch_size=18)
    average["dataloader"]["train"]["sampler"]["repeats"] = 2
    average["optimizer"]["layer_decay"] = 0.8

    many = config(images, {**MIXER, "drop_rate": 0.0}, global_batch_size=24)
    many["dataloader"]["train"]["loader"]["num_workers"] = 1
    many["optimizer"] = {"name": "SGD", "momentum": 0.9, "grad_clip": 1.0}

    resumed = config(images, CONV_MLP, epochs=3)
    return {
        "mixer": (every, 1),
        "batch_norm": (config(images, CONV_MLP), 1),
        "average": (average, 1),
        "two_processes": (many, 2),
        "resumed": (resumed, 1),
    }


def run(tree, program, *arguments, processes=1):
    """Runs a tool of a tree, or a piece of code, to its end; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--log_dir"]
    launch = [*launch, tempfile.mkdtemp()] if processes > 1 else []
    tool = ["-c", program] if "\n" in program else [str(tree / "tools" / f"{program}.py")]
    command = [sys.executable, *launch, *tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:300]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def records(folder):
    """The records of a run without the clock, as text: a float is its shortest exact form."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
    return [json.dumps(row) for row in rows]


def state(folder):
    """The digests of every tensor of a run's checkpoints."""
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    return {file.name: json.loads(run(ROOT, ARRAYS, file)) for file in files}


def differences(one, other, path=""):
    """Yields where two trees of plain values differ; keys that only ``other`` has are new."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            if key not in other:
                yield f"{path}.{key} is gone"
            else:
                yield from differences(value, other[key], f"{path}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other)):
            yield from differences(a, b, f"{path}.{i}")
    elif one != other or type(one) is not type(other):
        yield f"{path}: {one!r:.80} is {other!r:.80} now"


def same_runs(before, folder, only):
    """Yields (what, differences) of the five runs."""
    images = folder / "images"
    write_images(images)
    for name, (values, processes) in configs(images).items():
        if only and name not in only:
            continue
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        runs = {tree: folder / name / tree.name for tree in (before, ROOT)}
        for tree, output in runs.items():
            run(tree, "train", "-c", file, "--output-dir", output, processes=processes)
        old, new = runs.values()
        yield f"{name}: {len(records(old))} records", differences(records(old), records(new))
        yield f"{name}: tensors", differences(state(old), state(new))
        answers = []
        for tree in (before, ROOT):
            output = folder / f"{name}.json"
            best = old / "checkpoints" / "best.safetensors"
            run(tree, "eval", "-c", file, "--weights", best, "--json", output)
            answers.append(
                {
                    k: v
                    for k, v in json.loads(output.read_text(encoding="utf-8")).items()
                    if k not in CLOCK
                }
            )
            for key in ("environment", "started", "command"):
                answers[-1].pop(key, None)
        yield f"{name}: evaluated with both", differences(*answers)
        if name == "resumed":
            middle = sorted((old / "checkpoints").glob("step-*.safetensors"))[1]
            for tree, output in runs.items():  # each the run of the other one, from its middle
                again = folder / name / f"again-{tree.name}"
                shutil.copytree(output, again)
                arguments = ["--output-dir", again, "--resume", again / "checkpoints" / middle.name]
                run(ROOT, "train", "-c", file, *arguments)
                what = f"{name}: from the middle of {'its own' if tree is ROOT else 'the earlier'}"
                yield f"{what} run, records", differences(records(old), records(again))
                yield f"{what} run, tensors", differences(state(old), state(again))


def same_configs(before):
    """Returns in what the shipped configs differ; keys that are new do not count."""
    paths = sorted(str(p.relative_to(before)) for p in (before / "configs").rglob("*.yaml"))
    paths = [p for p in paths if "/zoo/" not in p and "/_base_/" not in p]
    values = [json.loads(run(tree, RESOLVE, *paths)) for tree in (before, ROOT)]
    return len(paths), differences(*values)


def imports_of(tree):
    """Returns the import statements of a tree's pages and tests that speak of passl."""
    found = set()
    for page in [*tree.glob("README*.md"), *(tree / "docs").glob("*.md")]:
        found |= set(
            re.findall(
                r"^(?:from|import) passl[^\n(]*$", page.read_text(encoding="utf-8"), re.MULTILINE
            )
        )
    for file in [*(tree / "tests").rglob("*.py"), *(tree / "benchmarks").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("passl"):
                public = [a.name for a in node.names if not a.name.startswith("_")]
                found |= {f"from {node.module} import {name}" for name in public}
    return sorted(found)


def same_names(before):
    """Returns which of the earlier imports fail now."""
    statements = imports_of(before)
    code = "import json, sys\nfailed = []\nimport passl\nfor line in json.loads(sys.argv[1]):\n"
    code += "    try:\n        exec(line)\n    except Exception as error:\n"
    code += "        failed.append(f'{line}: {error}')\njson.dump(failed, sys.stdout)\n"
    return len(statements), json.loads(run(ROOT, code, json.dumps(statements)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision", help="the earlier one")
    parser.add_argument("--only", nargs="+", help="names of runs")
    arguments = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        before = folder / "before"
        archive = subprocess.Popen(
            ["git", "archive", arguments.revision], cwd=ROOT, stdout=subprocess.PIPE
        )
        before.mkdir()
        subprocess.run(["tar", "-x", "-C", str(before)], stdin=archive.stdout, check=True)
        if archive.wait():
            raise SystemExit(f"git knows no revision {arguments.revision}")

        def tell(what, found):
            nonlocal differing
            found = list(found)
            differing += bool(found)
            print(f"{what}: {'equal' if not found else f'{len(found)} differ'}", flush=True)
            for line in found[:10]:
                print(f"    {line}")

        if not arguments.only:
            count, found = same_configs(before)
            tell(f"{count} configs", found)
            count, found = same_names(before)
            tell(f"{count} imports", found)
        for what, found in same_runs(before, folder, arguments.only):
            tell(what, found)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
