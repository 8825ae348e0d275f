"""An exported program's archive (.pt2), looked through before PyTorch reads it.

`torch.export.load` trusts its file: it unpickles what the file says is pickled, evaluates the file's expressions of
sizes, executes its guards as Python, and calls whatever function of torch a node names. So here what a program is made
of is held to a list: plain weights, operators of ATen, names that are names, sizes and guards that are arithmetic.
Written against PyTorch 2.13's schema 8; what is not known is refused.
"""

import ast
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hanbit.common.errors import FormatError

_MOST_JSON = 256 * 2**20
_ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/weights/weight_\d+|"
    r"data/constants/tensor_\d+|data/(weights|constants)/model_(weights|constants)_config\.json|"
    r"data/sample_inputs/model\.pt"
)
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed)\.(?!from_file)[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?|"
    r"torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled|wrap_with_autocast)|"
    r"torch\._?sym_[a-z_]+|math\.(ceil|floor|trunc|sqrt|pow|log|log2|exp)|"
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|and_|or_|not_|eq|ne|lt|le|gt|ge|getitem)"
)
_NAME = re.compile(r"[A-Za-z0-9_.]{0,512}", re.ASCII)
_FREE = {"metadata", "as_string", "torch_version", "expr_str", "guards_code", "in_spec", "out_spec", "target"}
_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Invert, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.Compare, ast.Eq, ast.NotEq,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Call, ast.keyword, ast.Constant, ast.Subscript, ast.Name, ast.Load,
)  # fmt: skip
_FUNCTIONS = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le", "Gt",
    "Ge", "And", "Or", "Not", "CeilDiv", "CeilToInt", "FloorDiv", "FloorToInt", "IntTrueDiv", "FloatTrueDiv", "LShift",
    "RShift", "ModularIndexing", "PythonMod", "PowByNatural", "FloatPow", "RoundDecimal", "RoundToInt", "ToFloat",
    "TruncToInt", "TruncToFloat", "Where", "CleanDiv", "Identity",
}  # fmt: skip
_OF_TENSORS = ("size", "stride", "storage_offset")
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def check_exported(path: Path) -> None:
    """Raises FormatError for an archive that is none, or that holds more than a program of tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive)
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as problem:
        raise FormatError(f"{path} is no archive of an exported program: {problem}") from None


def is_exported(path: Path) -> bool:
    """By what it holds, whatever it is called."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_inner(name) in ("models/model.json", "archive_format") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    names = [_inner(info.filename) for info in archive.infolist()]
    odd = [name for name in names if not _ENTRY.fullmatch(name)]
    if odd or len(set(names)) != len(names):
        raise FormatError(f"{path} holds {(odd or names)[0]!r:.80}: only programs with plain weights are read")
    if "models/model.json" not in names:
        raise FormatError(f"{path} has no program. Write it with torch.export.save of PyTorch 2.9 or newer")
    for info in archive.infolist():
        inner = _inner(info.filename)
        if inner.endswith(".json"):
            _check_json(path, inner, archive, info)
        elif inner.startswith("data/sample_inputs/"):
            _check_sample(path, archive, info)


def _check_json(path: Path, inner: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    if info.file_size > _MOST_JSON:
        raise FormatError(f"{path}: {inner} has {info.file_size} bytes, at most {_MOST_JSON} are read")
    value = json.loads(archive.read(info))
    for key, found in _walk("", value):
        problem = _problem(key, found)
        if problem:
            raise FormatError(f"{path}: {inner}: {problem}")


def _check_sample(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """PyTorch reads these with weights_only first, and without if that fails: so it must not fail."""
    with archive.open(info) as file:
        try:
            torch.load(file, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as problem:
            raise FormatError(f"{path}: its sample inputs are more than tensors: {problem}") from None


def _walk(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every scalar with the key that it stands under, lists passed through; every key; whole values of free keys."""
    if isinstance(value, dict):
        for inner, one in value.items():
            yield "key", inner
            if inner == "metadata" and isinstance(one, dict) and all(isinstance(text, str) for text in one.values()):
                continue
            yield from _walk(inner, one)
    elif isinstance(value, list):
        for one in value:
            yield from _walk(key, one)
    else:
        yield key, value


def _problem(key: str, value: Any) -> str | None:
    if key == "use_pickle" and value:
        return "a weight is pickled, which is code. Export the program with plain tensors"
    if not isinstance(value, str):
        return None
    if key == "target":
        return None if _TARGET.fullmatch(value) else f"a node calls {value!r:.80}, which is no operator that is known"
    if key in ("expr_str", "guards_code"):
        return None if _is_arithmetic(value) else f"{value!r:.80} is no arithmetic of sizes"
    if key in ("in_spec", "out_spec"):
        return None if not value or _is_plain_tree(json.loads(value)) else "inputs or outputs of a type of their own"
    if key not in _FREE and not _NAME.fullmatch(value):
        return f"{value!r:.80} is no name"
    return None


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError):
        return False
    return len(text) < 10_000 and _all_arithmetic(tree)


def _all_arithmetic(node: ast.AST) -> bool:
    """Numbers, sizes of inputs (L['x'].size()[0]), symbols, and functions of the list; no attribute else."""
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute):
            is_known = called.attr in _OF_TENSORS and not node.args and not node.keywords
            return is_known and _all_arithmetic(called.value)
        is_known = isinstance(called, ast.Name) and called.id in _FUNCTIONS
        return is_known and all(_all_arithmetic(one) for one in (*node.args, *(one.value for one in node.keywords)))
    if isinstance(node, ast.Name):
        return node.id in ("L", "True", "False") or bool(re.fullmatch(r"[a-z]{1,3}\d{1,9}", node.id))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(_NAME.fullmatch(node.value))
    return isinstance(node, _NODES) and all(_all_arithmetic(one) for one in ast.iter_child_nodes(node))


def _is_plain_tree(value: Any) -> bool:
    """[version, {type, context, children_spec}] of tuples, lists and dicts by plain names."""
    if isinstance(value, list):
        return all(_is_plain_tree(one) for one in value)
    if not isinstance(value, dict):
        return isinstance(value, int)
    if value.get("type") not in _TREES:
        return False
    context = value.get("context")
    names = json.loads(context) if isinstance(context, str) else context
    is_named = names is None or (
        isinstance(names, list) and all(isinstance(one, str) and _NAME.fullmatch(one) for one in names)
    )
    return is_named and _is_plain_tree(value.get("children_spec", []))


def _inner(name: str) -> str:
    """Without the folder that the archive puts around everything."""
    return name.partition("/")[2]
