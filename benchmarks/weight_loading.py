#!/usr/bin/env python3
"""Time and memory of loading released weights into a network, format by format.

For each format a process of its own builds the network, then loads a file of random weights, and
reports the time of loading alone and by how much its memory peaked above what the built network
takes. The file has been read once before, so that the disk plays no part. Beside the formats stands
what a user would write by hand: Paddle's own loader, and the safetensors library.

usage: python benchmarks/weight_loading.py [--model mlp_mixer_b16_224] [--repeats 5] [--json FILE]
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import passl

# isort: split
from passl.modeling.backbones.mlp_mixer import MlpMixer
from passl.weights import WeightFile, write_tensor_file
from passl.weights.converting import convert_weights

FORMATS = {
    "timm .safetensors": ("timm.safetensors", "timm"),
    "PASSL .safetensors": ("own.safetensors", "passl"),
    "Google .npz": ("google.npz", "google"),
    "timm .pth": ("timm.pth", "timm"),
    "PASSL 1 .pdparams": ("v1.pdparams", "passl_v1"),
}
LOAD = """
import gc, json, re, sys, time
import passl, paddle
name, path, how = sys.argv[1:]
def kib(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
model = passl.create_model(name)
from passl.weights import load_weights
import safetensors.numpy
open(path, "rb").read()
gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before, started = kib("VmRSS"), time.perf_counter()
if how == "passl":
    load_weights(model, path)
elif how == "paddle.load":
    model.set_state_dict(paddle.load(path))
else:
    arrays = safetensors.numpy.load_file(path)
    model.set_state_dict({n: paddle.to_tensor(a) for n, a in arrays.items()})
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak": (kib("VmHWM") - before) * 1024}))
"""


def make_files(name: str, folder: Path) -> dict:
    """Writes random weights in every format; returns what to load and with what."""
    model = passl.create_model(name)
    first = folder / "first.safetensors"
    write_tensor_file(first, {n: t.numpy() for n, t in model.state_dict().items()}, {"kind": "w"})
    del model
    jobs = {}
    for label, (file, publisher) in FORMATS.items():
        convert_weights(first, folder / file, {"MlpMixer": MlpMixer.released_names}, publisher)
        jobs[label] = (folder / file, "passl")
    with WeightFile(folder / "v1.pdparams") as file:
        state = file.read_group("")
    with open(folder / "protocol2.pdparams", "wb") as file:
        pickle.dump(state, file, protocol=2)  # as Paddle before 2.1 wrote them
    jobs["PASSL 1 .pdparams, protocol 2"] = (folder / "protocol2.pdparams", "passl")
    bare = {name.replace("head.fc_cls", "head.fc"): array for name, array in state.items()}
    with open(folder / "bare.pdparams", "wb") as file:
        pickle.dump(bare, file, protocol=4)
    jobs["by hand: paddle.load"] = (folder / "bare.pdparams", "paddle.load")
    jobs["by hand: safetensors library"] = (folder / "own.safetensors", "safetensors")
    return jobs


def load(name: str, path: Path, how: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, name, str(path), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"error: {path}: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout.splitlines()[-1])
    return {**result, "peak_ratio": result["peak"] / path.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mlp_mixer_b16_224")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = make_files(arguments.model, Path(folder))
        rows = {label: [] for label in jobs}
        for _ in range(arguments.repeats):
            for label, job in jobs.items():
                rows[label].append(load(arguments.model, *job))
    print(f"{arguments.model}, medians of {arguments.repeats}")
    medians = {}
    for label, results in rows.items():
        median = {key: statistics.median(r[key] for r in results) for key in results[0]}
        medians[label] = median
        print(
            f"{label:32} {median['seconds']:6.2f} s   peak +{median['peak'] / 1e6:7.1f} MB = "
            f"{median['peak_ratio']:.2f} × the file"
        )
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"medians": medians, "rows": rows}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
