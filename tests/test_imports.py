"""The rooms of the house, and which way imports go between them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "passl"
# Bottom to top: a room may import from those below it; those in one line do not know one another.
STOREYS = (
    ("utils",),
    ("distributed", "tokenization"),
    ("modeling", "datasets", "solver", "weights"),
    ("evaluation",),
    ("hooks",),
    ("engine",),
    ("deployment",),
    ("inspection",),
    ("cli",),
)
MAY_IMPORT = {
    room: {below for storey in STOREYS[:number] for below in storey}
    for number, storey in enumerate(STOREYS)
    for room in storey
}


def imported_rooms(source):
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert "*" not in [alias.name for alias in node.names], "no wildcard imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("passl.")}
    return rooms


def test_every_room_is_known():
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.smoke
@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room):
    for file in (PACKAGE / room).rglob("*.py"):
        wrong = imported_rooms(file.read_text()) - MAY_IMPORT[room] - {room}
        assert not wrong, f"{file.relative_to(PACKAGE)} imports {sorted(wrong)}"


def test_the_check_sees_imports():
    source = "import passl.engine\nfrom passl.cli.train import main\nfrom passl import hooks\n"
    assert imported_rooms(source) == {"engine", "cli", "hooks"}


# Of paddle.distributed, outside of the room of that name: what exchanges no data by being called.
ELSEWHERE = {"sharding.group_sharded_parallel", "fleet.utils.recompute"}
EXCHANGES = {"all_reduce", "all_gather", "all_gather_object", "broadcast", "reduce", "scatter"}


def of_paddle_distributed(source):
    """Names that a source takes from paddle.distributed, in either way."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    start = "paddle.distributed"
    return {name[len(start) + 1 :] for name in names if f"{name}.".startswith(f"{start}.")}


@pytest.mark.smoke
def test_data_is_exchanged_in_one_place():
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        if file.parent != PACKAGE / "distributed":
            assert of_paddle_distributed(source) <= ELSEWHERE, file
        elif file.name != "collectives.py":
            calls = {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
            assert not calls & EXCHANGES, file


def test_the_check_sees_exchanges():
    for source in (
        "from paddle import distributed",
        "from paddle.distributed import all_reduce",
        "import paddle.distributed as dist",
        "import paddle\npaddle.distributed.all_reduce(x)",
    ):
        assert of_paddle_distributed(source) - ELSEWHERE, source
    assert (
        of_paddle_distributed("from paddle.distributed.fleet.utils import recompute") <= ELSEWHERE
    )


def test_configs_are_never_evaluated():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file
