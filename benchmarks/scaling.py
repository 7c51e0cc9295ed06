#!/usr/bin/env python3
"""What training a Mixer on 8 or 32 GPUs needs, computed: memory, images a second, communication.

Nothing here was measured on a GPU. Parameters and multiply-adds are counted on the network as
built, activations follow from what the block keeps for the backward pass, and speeds from published
figures; each assumption stands beside its source below. ``--check`` compares the memory formula
with the tensors that Paddle keeps and with the memory that a process takes here, in float32.

usage: python benchmarks/scaling.py [--model mlp_mixer_b16_224] [--batch 4096] [--check] [--json F]
example: python benchmarks/scaling.py --check --json scaling.json
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import passl  # before Paddle, which reads its settings at import

# isort: split
import paddle
from paddle import nn

from passl.inspection.costs import count_macs, kept_for_backward
from passl.modeling.backbones.mlp_mixer import MixerBlock

IMAGES = 1_281_167  # of ImageNet-1k's training set
DROP_PATH = 0.1  # of the shipped configs
FREE = 0.10  # of a GPU's memory, left for fragmentation
RUNTIME = 1.5e9  # bytes: CUDA context, cuBLAS, cuDNN and NCCL buffers; an assumption
LINK_EFFICIENCY = 0.75  # of a link's nominal bandwidth that an all-reduce gets; an assumption
UTILISATION = (0.25, 0.50)  # of the peak; the published runs below reach 0.47 to 0.59

# GMACs an image at 224 pixels as timm publishes them (results/benchmark-infer-amp-*.csv, column
# infer_gmacs, in huggingface/pytorch-image-models).
PUBLISHED_GMACS = {
    "mlp_mixer_s32_224": 1.00,
    "mlp_mixer_s16_224": 3.79,
    "mlp_mixer_b32_224": 3.24,
    "mlp_mixer_b16_224": 12.62,
    "mlp_mixer_l32_224": 11.27,
    "mlp_mixer_l16_224": 44.60,
}

# Images a second of training on one RTX 3090 in timm's results/benchmark-train-amp-nhwc-pt112-
# cu113-rtx3090.csv: PyTorch 1.12, mixed precision, channels last.
RTX3090_TRAINING = {
    "mlp_mixer_s32_224": 4943.04,
    "mlp_mixer_s16_224": 1660.76,
    "mlp_mixer_b32_224": 1856.75,
    "mlp_mixer_b16_224": 556.60,
    "mlp_mixer_l32_224": 543.38,
    "mlp_mixer_l16_224": 171.41,
}
# NVIDIA's GA102 whitepaper: dense 16-bit products summed in float32, and memory bandwidth.
RTX3090_TFLOPS, RTX3090_GBS = 71.0, 936.0
# big_vision's config mlp_mixer_i1k.py: B/16, 300 epochs of 99 % of the training images in
# 2 h 11 min on a TPU v3-128 (128 cores, two to a chip of 123 TFLOP/s), evaluations included.
TPU_CORES, TPU_SECONDS, TPU_CORE_TFLOPS = 128, 2 * 3600 + 11 * 60, 61.5


class Machine(NamedTuple):
    """A node of eight GPUs; decimal units except for the memory, rates of one direction."""

    name: str
    memory_gib: float
    tflops: float  # dense 16-bit products
    tflops_float32: float  # without tensor cores
    memory_gbs: float
    nvlink_gbs: float  # a GPU
    network_gbs: float  # a node


GPUS, NODES = 8, 4
# NVIDIA's data sheets. V100 SXM2: 125 TFLOP/s, 900 GB/s, NVLink 300 GB/s in both directions
# together; DGX-1: four InfiniBand ports of 100 Gb/s. A100 SXM 40 GB: 312 TFLOP/s, 1,555 GB/s,
# NVLink 600 GB/s; DGX A100: eight ports of 200 Gb/s. Other nodes have less: see NETWORKS.
MACHINES = (
    Machine("8×V100 16 GB", 16, 125, 15.7, 900, 150, 50),
    Machine("8×V100 32 GB", 32, 125, 15.7, 900, 150, 50),
    Machine("8×A100 40 GB", 40, 312, 19.5, 1555, 300, 200),
)
NETWORKS = (("100 Gb/s", 12.5), ("25 Gb/s", 3.125))  # GB/s a node, whatever the GPUs


class Format(NamedTuple):
    """Bytes an element of what is kept, and bytes a parameter.

    ``gelu`` and ``branch`` depend on whether a linear layer's bias is added inside a 16-bit
    operator (``linear_v2`` of Paddle 3's GPU builds) or beside it (2.6), where the float32 bias
    makes the sum float32. Layer norm is float32 in O1 and 16-bit in O2.
    """

    name: str
    stream: int  # the residual stream, kept by each layer norm
    product: int  # what a matrix product is given
    gelu: int  # what GELU is given
    branch: int  # what stochastic depth is given
    parameter: int
    gradient: int
    master: int
    cast: int  # the 16-bit copies that O1 makes of weights


FORMATS = (
    Format("float32", 4, 4, 4, 4, 4, 4, 0, 0),
    Format("O1, Paddle 2.6", 4, 2, 4, 4, 4, 4, 0, 2),
    Format("O1, Paddle 3", 4, 2, 2, 2, 4, 4, 0, 2),
    Format("O2", 2, 2, 2, 2, 2, 2, 4, 0),
)
FLOAT32, O1 = FORMATS[:2]  # of the two O1, the one that needs more


class Shape(NamedTuple):
    """A network's sizes; S, C, D_S and D_C as in the paper."""

    parameters: int
    macs: int  # multiply-adds of a forward pass, an image
    blocks: int
    dropping: int  # blocks with stochastic depth
    tokens: int
    channels: int
    tokens_hidden: int
    channels_hidden: int
    pixels: int  # numbers of an image


def build(name: str) -> nn.Layer:
    model = passl.create_model(name, drop_path_rate=DROP_PATH)
    model.train()
    return model


def measure_shape(name: str) -> Shape:
    """Counts parameters and multiply-adds of the network as it is built."""
    model = build(name)
    image = paddle.zeros([1, 3, 224, 224])
    with paddle.no_grad():
        macs = count_macs(model, lambda: model(image))
    blocks = [layer for layer in model.sublayers() if isinstance(layer, MixerBlock)]
    if not blocks:
        raise SystemExit(f"error: {name} has no Mixer blocks, which the memory formula is for")
    tokens, tokens_hidden = blocks[0].mlp_tokens.fc1.weight.shape
    channels, channels_hidden = blocks[0].mlp_channels.fc1.weight.shape
    return Shape(
        sum(p.size for p in model.parameters()),
        macs,
        len(blocks),
        sum(block.drop_path.rate > 0 for block in blocks),
        tokens,
        channels,
        tokens_hidden,
        channels_hidden,
        image.size,
    )


def block_bytes(shape: Shape, fmt: Format, dropping: bool) -> int:
    """Returns what eager Paddle keeps of one block for the backward pass, in bytes an image.

    Each of the two layer norms keeps its input and S means and variances, each first product
    the normalised tokens (the transposed ones are a view), GELU its input, each second product
    GELU's output, and stochastic depth the branch that it scales. Additions and transpositions
    keep nothing.
    """
    tokens = shape.tokens * shape.channels
    hidden = shape.channels * shape.tokens_hidden + shape.tokens * shape.channels_hidden
    kept = 2 * (fmt.stream + fmt.product) + (2 * fmt.branch if dropping else 0)
    return tokens * kept + hidden * (fmt.gelu + fmt.product) + 4 * 4 * shape.tokens


def activation_bytes(shape: Shape, fmt: Format, recompute: bool = False) -> int:
    """Returns the bytes an image that are kept at the end of a forward pass.

    With recompute: the inputs of the blocks, and one block at a time.
    """
    tokens = shape.tokens * shape.channels
    image = shape.pixels * (4 if fmt.product == 4 else 6)  # and its 16-bit copy
    ends = image + tokens * fmt.stream + 2 * 4 * shape.tokens  # the last layer norm
    plain = shape.blocks - shape.dropping
    if recompute:
        inputs = shape.blocks * tokens * fmt.stream
        return ends + inputs + block_bytes(shape, fmt, shape.dropping > 0)
    blocks = shape.dropping * block_bytes(shape, fmt, True) + plain * block_bytes(shape, fmt, False)
    return ends + blocks


def temporary_bytes(shape: Shape, fmt: Format) -> int:
    """Returns the bytes an image of the gradients in flight: GELU's, given and returned."""
    return 2 * shape.tokens * shape.channels_hidden * fmt.gelu


def state_bytes(shape: Shape, fmt: Format, shared_by: int = 1) -> Dict[str, float]:
    """Returns bytes a GPU besides activations, by kind, when they are the most.

    DataParallel copies all gradients into fused buffers, which it frees at the end of the
    backward pass: they take one more copy of the gradients, however large ``fusion_mb`` is.
    Group-sharded training exchanges gradients where they lie, and holds room for those of all
    parameters from the beginning of a step. The average of the weights is not shared out.
    """
    p = shape.parameters
    return {
        "parameters": float(p * fmt.parameter),
        "16-bit copies": float(p * fmt.cast),
        "gradients": float(p * fmt.gradient),
        "fusion buffers": float(p * fmt.gradient) if shared_by == 1 else 0.0,
        "AdamW moments": p * 8 / shared_by,
        "float32 masters": p * fmt.master / shared_by,
        "EMA": p * 4.0,
    }


def largest_batch(shape: Shape, fmt: Format, machine: Machine, recompute: bool, most: int) -> int:
    """Returns the largest power of two of images that fits a GPU, at most ``most``; 0: none."""
    image = activation_bytes(shape, fmt, recompute) + temporary_bytes(shape, fmt)
    free = machine.memory_gib * 2**30 * (1 - FREE) - RUNTIME
    free -= sum(state_bytes(shape, fmt).values())
    batch = 1
    while batch * 2 <= most and batch * 2 * image <= free:
        batch *= 2
    return batch if batch * image <= free else 0


def traffic_bytes(name: str, shape: Shape) -> float:
    """Returns memory traffic an image of a training step, in bytes, from the RTX 3090's speed.

    What its time exceeds that of the products at their peak is taken for memory traffic.
    """
    seconds = 1 / RTX3090_TRAINING[name] - training_flops(shape) / (RTX3090_TFLOPS * 1e12)
    return seconds * RTX3090_GBS * 1e9


def training_flops(shape: Shape) -> float:
    """Returns floating-point operations an image: the backward pass takes two forward ones."""
    return 3 * 2 * shape.macs


def image_rates(name: str, shape: Shape, machine: Machine) -> Tuple[float, float, float]:
    """Returns images a second of one GPU: low, by the RTX 3090, high."""
    flops, peak = training_flops(shape), machine.tflops * 1e12
    low, high = (peak * share / flops for share in UTILISATION)
    if name not in RTX3090_TRAINING:
        return low, (low + high) / 2, high
    traffic = traffic_bytes(name, shape) / (machine.memory_gbs * 1e9)
    return low, 1 / (flops / peak + traffic), high


def exchange_seconds(gradient_bytes: float, processes: int, gbs: float) -> float:
    """Returns seconds of a ring all-reduce over links of ``gbs`` GB/s, nominal."""
    return 2 * (processes - 1) / processes * gradient_bytes / (gbs * 1e9 * LINK_EFFICIENCY)


def table(title: str, header: List[str], rows: List[List[object]]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def print_model(name: str, shape: Shape) -> dict:
    gmacs, flops = shape.macs / 1e9, training_flops(shape)
    said = PUBLISHED_GMACS.get(name)
    print(f"Computed, not measured: {name}")
    print(
        f"\n* {shape.parameters:,} parameters; {gmacs:.2f} G multiply-adds an image forward", end=""
    )
    print(f" (timm: {said:.2f}, {gmacs / said - 1:+.1%})" if said else " (none published)", end="")
    print(f"; {flops / 1e9:.1f} GFLOP an image in training.")
    result = {"parameters": shape.parameters, "gmacs": gmacs, "published_gmacs": said}
    if name in RTX3090_TRAINING:
        rate = RTX3090_TRAINING[name]
        result["rtx3090_utilisation"] = rate * flops / (RTX3090_TFLOPS * 1e12)
        result["traffic_bytes"] = traffic_bytes(name, shape)
        print(
            f"* Published: {rate:.0f} images/s on one RTX 3090 (timm), "
            f"{result['rtx3090_utilisation']:.0%} of its {RTX3090_TFLOPS:.0f} TFLOP/s; the rest of "
            f"the time is {result['traffic_bytes'] / 1e9:.2f} GB of memory traffic an image."
        )
    if name == "mlp_mixer_b16_224":
        rate = 300 * 0.99 * IMAGES / TPU_SECONDS / TPU_CORES
        result["tpu_v3_core_rate"] = rate
        share = rate * flops / (TPU_CORE_TFLOPS * 1e12)
        print(
            f"* Published: 300 epochs in 2 h 11 min on a TPU v3-128 (big_vision), {rate:.0f} "
            f"images/s a core, {share:.0%} of its {TPU_CORE_TFLOPS} TFLOP/s."
        )
    return result


def print_memory(shape: Shape, batch: int) -> dict:
    states = {fmt.name: state_bytes(shape, fmt) for fmt in FORMATS}
    kinds = list(states[FLOAT32.name])
    rows = [
        [name, *(f"{state[k] / 1e9:.2f}" for k in kinds), f"{sum(state.values()) / 1e9:.2f}"]
        for name, state in states.items()
    ]
    table("Memory that does not depend on the batch, GB a GPU:", ["format", *kinds, "sum"], rows)

    rows, activations, batches = [], {}, []
    for fmt in FORMATS:
        kept = [activation_bytes(shape, fmt, again) for again in (False, True)]
        activations[fmt.name] = dict(zip(("plain", "recompute"), kept))
        row: List[object] = [fmt.name, *(f"{k / 1e6:.1f}" for k in kept)]
        row.append(f"{temporary_bytes(shape, fmt) / 1e6:.1f}")
        for machine in MACHINES:
            fit = [
                largest_batch(shape, fmt, machine, again, batch // GPUS) for again in (False, True)
            ]
            batches.append({"machine": machine.name, "format": fmt.name, "batch": fit})
            row.append(" / ".join(str(b or "none") for b in fit))
        rows.append(row)
    table(
        "Activations, MB an image, and the largest micro-batch a GPU (a power of two of at most "
        f"{batch // GPUS}, {FREE:.0%} left free), without / with recompute:",
        ["format", "kept", "kept, recompute", "temporary", *(m.name for m in MACHINES)],
        rows,
    )
    rows, sharded = [], []
    for sharding in (0, 2):
        sums = [
            sum(state_bytes(shape, O1, processes if sharding else 1).values()) / 1e9
            for processes in (GPUS, GPUS * NODES)
        ]
        sharded.append(sums)
        rows.append([sharding, *(f"{s:.2f}" for s in sums)])
    # The engine does not share out O2's.
    header = ["parallel.sharding", "O1, 8 GPUs", "O1, 32 GPUs"]
    table("The same sums where optimizer state is shared out, GB a GPU:", header, rows)
    return {
        "state_bytes": states,
        "activation_bytes": activations,
        "micro_batches": batches,
        "sharded_gb": sharded,
    }


def print_speed(name: str, shape: Shape, batch: int, epochs: int) -> dict:
    gradients = shape.parameters * O1.gradient
    rates, links, speed_rows, link_rows = [], [], [], []
    for machine, before in zip(MACHINES, (None, *MACHINES)):
        low, middle, high = image_rates(name, shape, machine)
        other = before is None or machine[2:] != before[2:]  # than the one before, in speed
        micro = largest_batch(shape, O1, machine, False, batch // GPUS)
        for nodes in (1, NODES):
            gpus = GPUS * nodes
            share = batch // gpus
            accumulation = -(-share // min(micro, share)) if micro else 0
            compute = share / middle
            choices = [("NVLink", machine.nvlink_gbs)]
            if nodes > 1:
                choices = [("InfiniBand", machine.network_gbs), *NETWORKS]
            for order, (link, gbs) in enumerate(choices):
                exchange = exchange_seconds(gradients, gpus, gbs)
                part = exchange / (compute + exchange)
                every = accumulation * exchange / (compute + accumulation * exchange)
                links.append(
                    {
                        "machine": machine.name,
                        "gpus": gpus,
                        "link": link,
                        "link_gbs": gbs,
                        "exchange_seconds": exchange,
                        "compute_seconds": compute,
                        "share": part,
                        "share_with_each_micro_batch": every,
                    }
                )
                cells = [f"{1e3 * exchange:.1f}", f"{1e3 * compute:.0f}", f"{part:.1%}"]
                cells += [str(accumulation), f"{every:.1%}"]
                if other:
                    link_rows.append([machine.name, gpus, f"{link}, {gbs:g} GB/s", *cells])
                if order == 0:
                    totals = [batch / (share / r + exchange) for r in (low, middle, high)]
            hours = [epochs * IMAGES / total / 3600 for total in totals]
            rates.append(
                {
                    "machine": machine.name,
                    "gpus": gpus,
                    "micro_batch": min(micro, share),
                    "accumulation": accumulation,
                    "images_per_second": totals,
                    "hours": hours,
                }
            )
            speed_rows.append(
                [
                    machine.name if nodes == 1 else f"{nodes} × {machine.name}",
                    f"{min(micro, share)} × {accumulation}",
                    f"{middle:.0f} ({low:.0f} to {high:.0f})",
                    f"{middle * training_flops(shape) / (machine.tflops * 1e12):.0%}",
                    f"{totals[1]:,.0f}",
                    f"{hours[1]:.1f} ({hours[2]:.1f} to {hours[0]:.1f})",
                ]
            )
    table(
        "Images a second in O1, no recompute, exchange not hidden (in brackets: at "
        f"{UTILISATION[0]:.0%} and {UTILISATION[1]:.0%} of the peak):",
        [
            "machine",
            "micro-batch × accumulation",
            "a GPU",
            "of the peak",
            "all",
            f"h, {epochs} epochs",
        ],
        speed_rows,
    )
    table(
        f"Exchange of {gradients / 1e6:.0f} MB of float32 gradients, ring all-reduce at "
        f"{LINK_EFFICIENCY:.0%} of the link; ms a step of {batch}:",
        ["machine", "GPUs", "slowest link", "exchange", "compute", "share", "micro-batches"]
        + ["share, exchanged with each"],
        link_rows,
    )
    ceilings = {m.name: m.tflops_float32 * 1e12 / training_flops(shape) for m in MACHINES}
    said = ", ".join(f"{name} {rate:.0f}" for name, rate in ceilings.items())
    print(f"\nfloat32 without tensor cores, images/s a GPU at the peak: {said}.")
    return {"speed": rates, "exchange": links, "float32_ceiling": ceilings}


def kib(field: str) -> int:
    """Returns a line of the process's status, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0])


def measure(name: str, batch: int, again: bool) -> None:
    """Prints what Paddle keeps of one image, and by how much a step makes this process grow."""
    model = build(name)

    def loss(images: int):
        return model(paddle.zeros([images, 3, 224, 224])).mean()

    total = kept_for_backward(model, lambda: loss(1))
    if again:
        from passl.engine.execution import recompute_blocks

        recompute_blocks(model)
    loss(1).backward()  # from here on there are gradients
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    before = kib("VmRSS")
    loss(batch).backward()
    print(json.dumps({"kept": total, "growth": (kib("VmHWM") - before) * 1024}))


def print_check(name: str, shape: Shape) -> List[dict]:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    results, rows = [], []
    for again in (False, True):
        seen = []
        for batch in (2, 6):
            command = [sys.executable, __file__, "--model", name, "--measure", str(batch)]
            command += ["--recompute"] if again else []
            output = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            seen.append(json.loads(output.stdout.splitlines()[-1]))
        kept = activation_bytes(shape, FLOAT32, again)
        formula = kept + temporary_bytes(shape, FLOAT32)
        slope = (seen[1]["growth"] - seen[0]["growth"]) / 4
        results.append({"recompute": again, "formula": formula, "slope": slope, "seen": seen})
        exact = "" if again else f"{seen[0]['kept'] / 1e6:.2f} ({kept / 1e6:.2f})"
        growth = [
            f"{s['growth'] / 1e6:.0f} ({b * formula / 1e6:.0f})" for s, b in zip(seen, (2, 6))
        ]
        ratio = f"{slope / formula:.3f}"
        rows.append(["yes" if again else "no", exact, *growth, f"{slope / 1e6:.1f}", ratio])
    table(
        "Check on this processor, float32, MB (in brackets: the formula's):",
        ["recompute", "tensors kept, an image", "growth, batch 2", "growth, batch 6"]
        + ["growth an image", "of the formula"],
        rows,
    )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mlp_mixer_b16_224")
    parser.add_argument("--batch", type=int, default=4096, help="images a step, over all GPUs")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--check", action="store_true", help="measure float32 memory here (Linux)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name, batch = arguments.model, arguments.batch
    if arguments.measure:
        measure(name, arguments.measure, arguments.recompute)
        return
    if batch < 1 or batch % (GPUS * NODES):
        parser.error(f"--batch is a multiple of {GPUS * NODES}, not {batch}")
    shape = measure_shape(name)
    result = {"model": {**print_model(name, shape), **shape._asdict()}, "batch": batch}
    result["memory"] = print_memory(shape, batch)
    result.update(print_speed(name, shape, batch, arguments.epochs))
    if arguments.check:
        result["check"] = print_check(name, shape)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
