"""The import rule: a room may import only rooms on lower floors; torch-free rooms load without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hanbit"

FLOORS = {
    "common": 0,
    "config": 1, "kernels": 1,
    "tokenizers": 2, "models": 2, "launch": 2,
    "formats": 3, "quantize": 3, "data": 3, "parallel": 3, "tuning": 3, "optim": 3, "repository": 3, "grants": 3,
    "checkpoint": 4,
    "train": 5, "engine": 5, "convert": 5,
    "evaluate": 6, "planner": 6, "speech": 6,
    "server": 7,
    "studio": 8, "bench": 8, "demo": 8,
    "cli": 9,
}  # fmt: skip
TORCH_FREE = {"common", "config", "tokenizers", "launch", "repository", "grants", "studio"}
DATA_ROOMS = {"recipes"}  # no Python inside
KEPT_TO_ROOMS = {  # third parties that stay where they are known
    "transformers": {"convert"},
    "torch.distributed.tensor": {"parallel"},
    "grpc": {"server", "studio", "bench"},  # bench asks servers of all kinds, as their clients do
}


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> list[str]:
    """Every absolute module name a file imports, function-local imports counted too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: Path) -> str | None:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else None


def test_every_folder_has_a_floor() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(FLOORS) | DATA_ROOMS


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room is None:
        return  # hanbit/__init__.py and __main__.py stand outside the house
    for name in imports_of(path):
        for library, rooms in KEPT_TO_ROOMS.items():
            if name == library or name.startswith(library + "."):
                assert room in rooms, f"{path}: {library} is kept to {sorted(rooms)}"
        if name.split(".")[0] != "hanbit" or len(name.split(".")) < 2:
            continue
        other = name.split(".")[1]
        if other != room and other in FLOORS:
            assert FLOORS[other] < FLOORS[room], f"{path}: {room} ({FLOORS[room]}) imports {other} ({FLOORS[other]})"


@pytest.mark.parametrize("room", sorted(TORCH_FREE))
def test_room_loads_without_torch(room: str) -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in python_files()
        if room_of(path) == room
    ]
    if not modules:
        pytest.skip(f"{room} is not built yet")
    code = f"import sys, {', '.join(modules)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_lines_of_the_kernels_fit_on_a_screen_as_pythons_do() -> None:
    for path in sorted((PACKAGE / "kernels/native").iterdir()):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 120, f"{path}:{number} has {len(line)} characters"


def test_importing_hanbit_loads_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, hanbit; assert 'torch' not in sys.modules"],
        check=True,
        cwd=PACKAGE.parent,
    )
