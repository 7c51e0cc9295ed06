"""A network as files to deploy, checked at once, or to go on from."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from passl.datasets import BATCH_TRANSFORMS, TRANSFORMS
from passl.deployment import runtimes
from passl.utils.config import Config, plain
from passl.utils.errors import PasslError
from passl.utils.lent_home import writable_home
from passl.utils.quiet import quiet
from passl.utils.registry import Registry
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error, is_full
from passl.utils.text import path_in_text
from passl.utils.version import __version__
from passl.utils.whole_files import filling

FORMATS = ("paddle", "onnx")  # that run without PASSL
OWN = "passl"
ONNX_PACKAGES = ("paddle2onnx", "onnx", "onnxoptimizer", "onnxruntime")
DESCRIPTION = "preprocessing.json"
WEIGHTS = "weights.safetensors"
TOLERANCE = 1e-4  # by how much logits may differ, of the largest one

_OPSET = 17  # the first one with LayerNormalization
_TIDYING = (
    "extract_constant_to_initializer",
    "eliminate_identity",
    "eliminate_unused_initializer",
    "eliminate_deadend",
)
_BATCHES = (1, 3)  # that the files are tried with: their batch is to be free


def export(
    network: nn.Layer,
    folder: Path,
    section: Config,
    size: Sequence[int],
    facts: Dict[str, Any],
    formats: Sequence[str] = FORMATS,
    int8: bool = False,
    own: Optional[Callable[[Path], None]] = None,
) -> Dict[str, Any]:
    """Writes a network as files to deploy, and how images are prepared for it beside them.

    What was written is loaded again by the program that will run it and compared with the network:
    two batches of noise, of different lengths. Weights are its own numbers, and need no comparing.

    Args:
        network: images float32 ``[N, 3, H, W]`` to logits ``[N, K]`` or features, on a processor.
        folder: gets ``model.json`` or ``model.pdmodel``, ``model.pdiparams``, ``model.onnx``,
            ``model_int8.onnx``, ``weights.safetensors``, ``preprocessing.json``; nothing where
            something goes wrong.
        section: of the config's dataloader, which says how images are prepared.
        size: H and W.
        facts: what else to record (config, weights, class names).
        formats: some of ``FORMATS``, and ``OWN``.
        int8: also write the ONNX file with weights of 8 bits, which are multiplied as such (dynamic
            quantization); its logits differ, by as much as is recorded.
        own: writes the file of the format ``OWN``, see ``write_network``.

    Returns:
        What was recorded; ``differences`` has the largest difference of the logits of each file,
        relative to the largest logit.

    Raises:
        PasslError: a package is missing, the network cannot be written in that format, or a file
            gives other logits.
    """
    if "onnx" in formats and missing_for_onnx():
        raise PasslError(missing_for_onnx())
    expected = _answers(network, size)
    with (
        filling(folder),
        tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as aside,
        _blaming_a_full_disk(folder),
        path_in_text(Path(aside)) as made,
    ):
        differences: Dict[str, float] = {}
        if OWN in formats:
            assert own is not None
            own(made / WEIGHTS)
        if set(formats) & set(FORMATS):
            _write_paddle(network, made, size)
        if "paddle" in formats:
            run = runtimes.paddle_inference(made)
            differences["paddle"] = _compare(run, expected, "Paddle Inference")
        description = _describe(section, size, facts)
        if "onnx" in formats:
            _write_onnx(made, description)
            run = runtimes.onnx_runtime(made / runtimes.ONNX)
            differences["onnx"] = _compare(run, expected, "ONNX Runtime")
            if int8:
                _write_int8(made)
                run = runtimes.onnx_runtime(made / runtimes.ONNX_INT8)
                differences["onnx_int8"] = _difference(run, expected, "ONNX Runtime, int8")
        if "paddle" not in formats and "onnx" in formats:
            runtimes.program_file(made).unlink()
            (made / f"{runtimes.PADDLE}.pdiparams").unlink()
        description["differences"] = differences
        text = to_json(description, indent=2) + "\n"
        (made / DESCRIPTION).write_text(text, encoding="utf-8")
        for file in sorted(made.iterdir()):
            os.replace(file, folder / file.name)
    return description


@contextlib.contextmanager
def _blaming_a_full_disk(folder: Path) -> Iterator[None]:
    """Turns whatever the readers of a file that was cut short raise into what is the matter.

    Paddle and paddle2onnx do not look at whether they could write.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and is_full(folder):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise explain_os_error(full, folder) from error
        raise


def missing_for_onnx() -> str:
    """Returns which packages ONNX files need that are not installed; empty where all are."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    packages = " ".join(missing)
    if paddle.__version__.startswith("2."):
        packages = packages.replace("paddle2onnx", "'paddle2onnx<2'")
    return f"ONNX files need packages that are not installed: pip install {packages}"


def _describe(section: Config, size: Sequence[int], facts: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "passl": __version__,
        "paddle": paddle.__version__,
        **facts,
        "input": {
            "name": "image",
            "shape": ["batch", 3, *size],
            "dtype": "float32",
            "layout": "NCHW, red first",
        },
        # In the order in which they are done: on one uint8 image, then on the whole batch.
        "transforms": _in_full(TRANSFORMS, section.dataset.get("transforms") or []),
        "batch_transforms": _in_full(BATCH_TRANSFORMS, section.batch_transforms),
    }


def _in_full(registry: Registry, parts: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Returns parts of a config with the defaults of what they leave out."""
    full = []
    for part in parts:
        defaults = {
            key: argument.default for key, argument in registry.arguments(part["name"]).items()
        }
        full.append({"name": part["name"], **defaults, **plain(part)})
    return full


def _write_paddle(network: nn.Layer, folder: Path, size: Sequence[int]) -> None:
    network.eval()
    spec = InputSpec([-1, 3, *size], "float32", "image")
    forward = network.forward
    try:
        with quiet(output=True), writable_home():
            static = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
            paddle.jit.save(static, str(folder / runtimes.PADDLE))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Paddle raises errors of all kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise PasslError(
            f"PaddlePaddle {paddle.__version__} cannot make a static program of the network: "
            f"{reason}"
        ) from error
    finally:
        network.forward = forward
    weights = folder / f"{runtimes.PADDLE}.pdiparams"
    numbers = sum(tensor.numpy().nbytes for tensor in network.state_dict().values())
    # Reading a file that was cut short may end the process.
    if not weights.exists() or weights.stat().st_size < numbers:
        raise PasslError(f"{folder}: PaddlePaddle has not written the weights whole")
    # What Paddle 2 leaves beside them is for training on, and names this machine's files.
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{runtimes.PADDLE}.pdiparams.info").unlink()


def _write_onnx(folder: Path, description: Dict[str, Any]) -> None:
    with _needing():
        import onnx
        import onnxoptimizer
        import onnxruntime  # noqa: F401  is needed to try the file
        import paddle2onnx
    path = folder / runtimes.ONNX
    program = str(runtimes.program_file(folder))
    try:
        with quiet(output=True):
            paddle2onnx.export(
                program,
                str(folder / f"{runtimes.PADDLE}.pdiparams"),
                str(path),
                opset_version=_OPSET,
                # Its default is a package that installs onnxruntime when it is called.
                **_supported(paddle2onnx.export, optimize_tool="None"),
            )
    except (RuntimeError, SystemError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise PasslError(f"paddle2onnx cannot translate the network: {reason}") from error
    # Weights come as constants behind identities, where no quantizer would find them.
    model = onnxoptimizer.optimize(onnx.load(str(path)), list(_TIDYING))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    old = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["logits" if name == old else name for name in node.output]
        node.input[:] = ["logits" if name == old else name for name in node.input]
    model.graph.output[0].name = "logits"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {"passl": to_json(description)})
    onnx.save(model, str(path))


def _write_int8(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(output=True), _unlogged():
        quantize_dynamic(
            str(folder / runtimes.ONNX),
            str(folder / runtimes.ONNX_INT8),
            weight_type=QuantType.QInt8,
            reduce_range=True,  # of 8 bits, sums of products overflow on processors without VNNI
        )


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Leaves out what is logged under no name of its own, which is ONNX Runtime talking."""
    root = logging.getLogger()
    before, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = before


def _answers(network: nn.Layer, size: Sequence[int]) -> List[Tuple[np.ndarray, np.ndarray]]:
    """Returns batches of noise, of different lengths, and what the network gives for them.

    Raises:
        PasslError: numbers that are none.
    """
    rng, run = np.random.default_rng(0), runtimes.eager(network)
    answers = []
    for count in _BATCHES:
        images = rng.standard_normal((count, 3, *size)).astype(np.float32)
        answers.append((images, run(images)))
        if not np.isfinite(answers[-1][1]).all():
            raise PasslError(
                "the network itself gives numbers that are not finite (NaN or infinity), for "
                "noise; take other weights; nothing was written"
            )
    return answers


def _compare(
    run: runtimes.Run, expected: Sequence[Tuple[np.ndarray, np.ndarray]], name: str
) -> float:
    difference = _difference(run, expected, name)
    if difference > TOLERANCE:
        raise PasslError(
            f"{name} gives other logits than the network: they differ by {difference:.1e} of the "
            f"largest one, more than {TOLERANCE:g}; nothing was written"
        )
    return difference


def _difference(
    run: runtimes.Run, expected: Sequence[Tuple[np.ndarray, np.ndarray]], name: str
) -> float:
    differences = [runtimes.difference(run(images), answer) for images, answer in expected]
    if not np.isfinite(differences).all():
        raise PasslError(f"{name} gives numbers that are not finite; nothing was written")
    return max(differences)


def _supported(function: Any, **arguments: Any) -> Dict[str, Any]:
    """Returns those of the arguments that this version of a function takes."""
    known = function.__code__.co_varnames
    return {name: value for name, value in arguments.items() if name in known}


@contextlib.contextmanager
def _needing() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise PasslError(
            f"a package that ONNX files need cannot be imported ({error}); install it again: "
            f"{', '.join(ONNX_PACKAGES)}"
        ) from None
    except (ImportError, ValueError) as error:
        if "paddlepaddle" not in str(error):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PasslError(
                f"a package that ONNX files need is installed, but cannot be imported ({reason}): "
                f"pip install --force-reinstall {' '.join(ONNX_PACKAGES)}; "
                "--format paddle does without"
            ) from error
        # Of paddle2onnx 2 under Paddle 2.
        raise PasslError(
            f"the installed paddle2onnx is not for PaddlePaddle {paddle.__version__}: PaddlePaddle "
            "2 needs pip install 'paddle2onnx<2', PaddlePaddle 3 a later one; --format paddle does "
            "without"
        ) from None
