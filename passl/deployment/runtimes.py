"""What runs an exported network: one function each, from images to logits.

Each is told which precision to compute in: some choose bfloat16 by themselves where the processor
has it, and the logits then differ in the third digit.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from paddle import inference, nn

from passl.utils.commands import command
from passl.utils.errors import PasslError
from passl.utils.quiet import quiet

# float32 ``[N, 3, H, W]``, normalised, to float32 ``[N, num_classes]``.
Run = Callable[[np.ndarray], np.ndarray]

PADDLE, ONNX, ONNX_INT8 = "model", "model.onnx", "model_int8.onnx"  # files of an export
WITHOUT_BFLOAT16 = "this processor has no bfloat16"


def math_threads() -> int:
    """Returns how many threads Paddle's eager computations take here; the others take as many."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def program_file(folder: Path) -> Path:
    """Returns the program of a Paddle Inference model: ``.json`` of Paddle 3, ``.pdmodel`` of 2."""
    for suffix in (".json", ".pdmodel"):
        path = folder / f"{PADDLE}{suffix}"
        if path.exists():
            return path
    raise PasslError(f"{folder}: holds no exported model; make one with {command('export')}")


def eager(network: nn.Layer) -> Run:
    """Returns the network itself as a runtime."""
    network.eval()

    def run(images: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return network(paddle.to_tensor(images)).numpy()

    return run


def paddle_inference(folder: Path, onednn: bool = False, bfloat16: bool = False) -> Run:
    """Returns Paddle Inference over the model in a folder, on the device that Paddle is set to.

    Args:
        folder: of ``passl export``.
        onednn: let oneDNN compute (processors).
        bfloat16: let oneDNN compute in bfloat16. Without AVX-512 PaddlePaddle computes in float32
            and does not say so; see ``has_avx512``.
    """
    program = program_file(folder)
    config = inference.Config(str(program), str(folder / f"{PADDLE}.pdiparams"))
    config.disable_glog_info()
    device, _, number = paddle.get_device().partition(":")
    if device == "gpu":
        config.enable_use_gpu(256, int(number))
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(math_threads())
        if onednn:
            config.enable_mkldnn()
        elif hasattr(config, "disable_mkldnn"):  # Paddle 3 begins with it
            config.disable_mkldnn()
        if bfloat16:
            config.enable_mkldnn_bfloat16()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    begun = False

    def run(images: np.ndarray) -> np.ndarray:
        nonlocal begun
        source.copy_from_cpu(np.ascontiguousarray(images))
        # The first time it prints the names of checks that it makes.
        with contextlib.nullcontext() if begun else quiet(output=True):
            predictor.run()
        begun = True
        return result.copy_to_cpu()

    return run


def onnx_runtime(path: Path) -> Run:
    """Returns ONNX Runtime over an ONNX file, on the device that Paddle is set to."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = math_threads()
    options.log_severity_level = 3  # warnings of constants that it takes out itself
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
    session = onnxruntime.InferenceSession(
        str(path), options, providers=_providers(onnxruntime.get_available_providers())
    )
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _providers(available: Sequence[str]) -> List[Union[str, Tuple[str, Dict[str, Any]]]]:
    """Returns what ONNX Runtime may compute with: what computes as Paddle does on its device.

    Those for TensorRT, OpenVINO, Apple's and others' chips choose a precision of their own.
    """
    cuda = "CUDAExecutionProvider"
    if not paddle.get_device().startswith("gpu") or cuda not in available:
        return ["CPUExecutionProvider"]
    tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
    return [(cuda, {"use_tf32": int(tf32)}), "CPUExecutionProvider"]


def openvino(path: Path, bfloat16: bool = False) -> Run:
    """Returns OpenVINO on the processor over an ONNX file.

    Args:
        path: of the file.
        bfloat16: compute in bfloat16, which OpenVINO does by itself where the processor has it; see
            ``openvino_has_bfloat16``.
    """
    options = {
        "INFERENCE_NUM_THREADS": math_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    model = _openvino_core().compile_model(str(path), "CPU", options)
    return lambda images: model(images)[0]


def openvino_has_bfloat16() -> bool:
    """Tells whether OpenVINO can compute in bfloat16 on this processor."""
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def _openvino_core() -> Any:
    """Returns the one of this process: the end of one of two leaves a stack for signals unmapped.

    Each sets the stack on which signals are handled and puts back the one before at its end, even
    if that one's owner has ended too; the next signal is then a segmentation fault.
    """
    import openvino as ov

    return ov.Core()


def candidates(folder: Path, network: nn.Layer) -> Iterator[Tuple[str, Optional[Run], str]]:
    """Yields every way of running a network here: its name, it, and why not where it is None.

    Args:
        folder: where ``passl export`` has put the network.
        network: the network itself.
    """
    onnx, int8 = folder / ONNX, folder / ONNX_INT8
    yield "eager", eager(network), ""
    yield "Paddle Inference", paddle_inference(folder), ""
    if not paddle.get_device().startswith("gpu"):
        yield "Paddle Inference, oneDNN", paddle_inference(folder, onednn=True), ""
        name = "Paddle Inference, oneDNN bfloat16"
        if has_avx512():
            run, reason = None, ""
            try:
                run = paddle_inference(folder, onednn=True, bfloat16=True)
            except ValueError as error:  # its passes get shapes of windows (Swin) wrong
                reason = f"Paddle cannot prepare this network for it: {error}".partition("\n")[0]
            yield name, run, reason
        else:
            yield name, None, WITHOUT_BFLOAT16
    made: List[Tuple[str, Path, Callable[[Path], Optional[Run]], str]] = [
        ("ONNX Runtime", onnx, onnx_runtime, "onnxruntime"),
        ("ONNX Runtime, int8", int8, onnx_runtime, "onnxruntime"),
        ("OpenVINO", onnx, openvino, "openvino"),
        ("OpenVINO bfloat16", onnx, _openvino_bfloat16, "openvino"),
    ]
    for name, path, make, package in made:
        if not path.exists():
            yield name, None, f"there is no {path.name}"
            continue
        try:
            run = make(path)
        except ModuleNotFoundError:
            yield name, None, f"pip install {package}"
        except ImportError as error:
            yield name, None, f"{package} is installed, but cannot be imported ({error})"
        else:
            yield name, run, "" if run else WITHOUT_BFLOAT16


def _openvino_bfloat16(path: Path) -> Optional[Run]:
    return openvino(path, bfloat16=True) if openvino_has_bfloat16() else None


def has_avx512() -> bool:
    """Tells whether the processor has the part of AVX-512 that bfloat16 of oneDNN needs."""
    with contextlib.suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        return {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags
    return False


def difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """Returns the largest difference of logits, relative to the largest of the reference."""
    return float(np.abs(logits - reference).max() / max(np.abs(reference).max(), 1e-30))
