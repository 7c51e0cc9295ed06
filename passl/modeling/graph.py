"""The operations of a network as a graph, in the format of Paddle's model files, for viewers."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

import paddle
from paddle.base import core
from paddle.static import InputSpec

from passl.modeling.architectures.classifier import Network
from passl.utils.lent_home import writable_home
from passl.utils.quiet import quiet


@dataclasses.dataclass
class Operation:
    """One operation of a network.

    Attributes:
        kind: what it does, as Paddle calls it (``matmul``).
        layer: the path of the layer it belongs to (``backbone/blocks_0/norm1``).
        inputs, outputs: names of tensors.
    """

    kind: str
    layer: str
    inputs: List[str]
    outputs: List[str]


@dataclasses.dataclass
class Graph:
    """What a network computes.

    Attributes:
        operations: in the order in which they are done.
        shapes: of every tensor by its name; -1 is the number of images.
        weights: which of the tensors are weights.
    """

    operations: List[Operation]
    shapes: Dict[str, List[int]]
    weights: List[str]


def trace(model: Mapping[str, Any], image_shape: Sequence[int]) -> Graph:
    """Returns what the network of a config computes, from an image to logits or features.

    Nothing is computed, and no memory is taken for the weights; but initialisers may draw, so that
    Paddle's random state is another one afterwards.

    Args:
        model: the section of the config.
        image_shape: ``[C, H, W]``.

    Raises:
        Exception: whatever Paddle raises where it cannot make a static program of a network.
    """
    with paddle.LazyGuard():
        network = Network(model["architecture"], model.get("head"))
    network.eval()
    # Where each layer begins and ends, in operations so far; weights are added at the front.
    spans: List[Tuple[str, int, int]] = []
    open_: List[int] = []

    def so_far() -> int:
        block = paddle.static.default_main_program().global_block()
        return sum(_kind(op) != "parameter" for op in block.ops)

    def begins(layer: Any, inputs: Any) -> None:
        open_.append(so_far())

    def ends(path: str) -> Callable[[Any, Any, Any], None]:
        return lambda layer, inputs, outputs: spans.append((path, open_.pop(), so_far()))

    for name, layer in network.named_sublayers():
        layer.register_forward_pre_hook(begins)
        # A list of layers is no level of its own: blocks.0 is blocks_0.
        layer.register_forward_post_hook(ends(re.sub(r"\.(\d+)", r"_\1", name).replace(".", "/")))

    spec = InputSpec([-1, *image_shape], "float32", "image")
    with quiet(), writable_home():  # Paddle 3 warns of an argument of its own
        static = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
        block = static.forward.concrete_program.main_program.global_block()
    names = {parameter.name: name for name, parameter in network.named_parameters()}
    read = _read_pir if hasattr(core, "pir") and isinstance(block, core.pir.Block) else _read_block
    shapes: Dict[str, List[int]] = {}
    operations = list(read(block, names, shapes))
    for path, begin, end in spans:  # inner layers end before those that they are in
        for operation in operations[begin:end]:
            operation.layer = operation.layer or path
    return Graph(operations, shapes, [name for name in names.values() if name in shapes])


def as_model_file(graph: Graph) -> bytes:
    """Returns a graph as a ``.pdmodel`` file; it has no weights and cannot be run."""
    program = core.ProgramDesc()
    block = program.block(0)
    weights = set(graph.weights)
    for name, shape in graph.shapes.items():
        variable = block.var(name.encode())
        variable.set_type(core.VarDesc.VarType.LOD_TENSOR)
        variable.set_dtype(core.VarDesc.VarType.FP32)
        variable.set_shape(shape)
        variable.set_persistable(name in weights)
    for operation in graph.operations:
        described = block.append_op()
        described.set_type(operation.kind)
        described.set_input("X", operation.inputs)
        described.set_output("Out", operation.outputs)
        described._set_attr("op_namescope", f"/{operation.layer}/" if operation.layer else "/")
    return program.serialize_to_string()


def _kind(operation: Any) -> str:
    """Returns what an operation of either of Paddle's representations is called."""
    if hasattr(operation, "type"):
        return operation.type
    return operation.name().rpartition(".")[2]


def _read_pir(
    block: Any, names: Mapping[str, str], shapes: Dict[str, List[int]]
) -> Iterator[Operation]:
    """Reads a program of Paddle 3."""
    known: List[Tuple[Any, str]] = []

    def name_of(value: Any) -> str:
        for other, name in reversed(known):
            if other.is_same(value):
                return name
        raise AssertionError("a tensor that no operation has made")

    for number, operation in enumerate(block.ops):
        kind = _kind(operation)
        outputs = []
        for place, value in enumerate(operation.results()):
            if not value.initialized():
                continue
            name = names.get(value.name) if kind == "parameter" else None
            name = name or f"{kind}_{number}" + (f"_{place}" if place else "")
            known.append((value, name))
            # What goes into a concatenation is a list of tensors, which has no shape.
            shapes[name] = list(value.shape) if value.is_dense_tensor_type() else []
            outputs.append(name)
        if kind != "parameter":
            inputs = [name_of(v) for v in operation.operands_source() if v.initialized()]
            yield Operation(kind, "", inputs, outputs)


def _read_block(
    block: Any, names: Mapping[str, str], shapes: Dict[str, List[int]]
) -> Iterator[Operation]:
    """Reads a program of Paddle 2."""
    for operation in block.ops:
        sides = []
        for side in (operation.input_arg_names, operation.output_arg_names):
            sides.append([names.get(name, name) for name in side])
            for name in side:
                shapes[names.get(name, name)] = list(block.var(name).shape)
        yield Operation(operation.type, "", *sides)
