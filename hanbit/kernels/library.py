"""The compiled kernels, loaded: `native()` gives them, or None and `why_not()` the reason. No torch.

HANBIT_NATIVE=0 turns them off; HANBIT_NATIVE=portable, avx2, avx512 or avx512vnni, on ARM neon or neondot, asks for
one instruction set.
A call lets go of Python's lock while it computes. Every address that is handed over must stay valid for the call, and
those in a Decoder for as long as its step lives.
"""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from hanbit.common.errors import ConfigError
from hanbit.kernels.build import LIBRARY, digest
from hanbit.kernels.structs import Address, Count, Decoder, Linear, Matrix, Reading

MOST_ROWS = 8  # of one product of floats that is read from memory row by row; more are a matter of arithmetic
_BUILD = "python -m hanbit.kernels.build"
_SETS = ("portable", "avx2", "avx512", "avx512vnni", "neon", "neondot")

_INT, _FLOAT = ctypes.c_int32, ctypes.c_float
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "hanbit_sources": (ctypes.c_char_p, ()),
    "hanbit_kernels": (Address, (ctypes.c_char_p,)),
    "hanbit_name": (ctypes.c_char_p, (Address,)),
    "hanbit_linear": (None, (Address, ctypes.POINTER(Linear), Address, Count, Address, _INT)),
    "hanbit_take_rows": (None, (Address, ctypes.POINTER(Matrix), Count, Address, Count, Address)),
    "hanbit_quantise": (None, (Address, Address, Count, Address)),
    "hanbit_step_new": (Address, (Address, ctypes.POINTER(Decoder))),
    "hanbit_step_run": (None, (Address, Address, Address, Address, Count, Address, Count, Address, _INT)),
    "hanbit_step_free": (None, (Address,)),
    "hanbit_use_huge_pages": (None, (Address, Count)),
    "hanbit_read": (ctypes.c_uint64, (Address, Count, _INT)),
    "hanbit_rms_norm": (None, (Address, Address, Address, _FLOAT, Count, Address)),
    "hanbit_rotate": (None, (Address, Address, Address, Address, Count)),
    "hanbit_swiglu": (None, (Address, Address, Address, Count, Address)),
    "hanbit_keep": (None, (Address, Count, Address, Count, Address)),
    "hanbit_attend": (
        None,
        (Address, Count, Count, Address, Address, Address, Address, Count, Count, _FLOAT, Address),
    ),
    "hanbit_largest": (Count, (Address, Address, Count)),
    "hanbit_words_new": (Address, (ctypes.c_bool, Count)),
    "hanbit_words_free": (None, (Address,)),
    "hanbit_words_read": (ctypes.POINTER(Reading), (Address, ctypes.c_char_p, Address, Address, Count)),
    "hanbit_words_learn": (None, (Address, ctypes.POINTER(Reading), Address, Address)),
    "hanbit_reading_free": (None, (ctypes.POINTER(Reading),)),
}


@dataclass(frozen=True)
class Native:
    """A loaded library and the kernels of one instruction set in it, the first argument of its functions."""

    library: ctypes.CDLL
    kernels: int
    instruction_set: str


@functools.cache
def native() -> Native | None:
    """The kernels of this process, or None. Raises ConfigError if HANBIT_NATIVE asks for what there is not."""
    return None if why_not() else load(LIBRARY, _wanted())


@functools.cache
def why_not() -> str:
    """Why there are no kernels, with the way out; empty if there are."""
    if os.environ.get("HANBIT_NATIVE") == "0":
        return "turned off by HANBIT_NATIVE=0"
    if not LIBRARY.exists():
        return f"not built; {_BUILD} builds it, with a C++ compiler"
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.hanbit_sources.restype = ctypes.c_char_p
        built_from = library.hanbit_sources().decode()
    except (OSError, AttributeError) as problem:
        return f"cannot be loaded: {problem}; {_BUILD} builds it anew"
    return "" if built_from == digest() else f"built from other sources than these; {_BUILD} builds it anew"


def load(path: Path, instruction_set: str | None = None) -> Native:
    """A library of these sources; None is the best set of this processor. Raises ConfigError if it lacks the set."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    kernels = library.hanbit_kernels(instruction_set and os.fsencode(instruction_set))
    if kernels is None:
        has = ", ".join(name for name in _SETS if library.hanbit_kernels(name.encode()))
        raise ConfigError(
            f"HANBIT_NATIVE={ascii(instruction_set)[1:-1]} is not here: this processor has {has}. Leave it "
            "away for the best, or give 0 for PyTorch alone"
        )
    return Native(library, kernels, library.hanbit_name(kernels).decode())


def _wanted() -> str | None:
    return os.environ.get("HANBIT_NATIVE") or None
