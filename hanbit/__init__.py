"""Hanbit: from raw text to a large language model trained over many devices, and one that speaks.

    from hanbit import LLM, SamplingParams, prepare, train

The same things as the verbs, for notebooks. Importing this loads no torch: names are looked up on use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanbit.convert.convert import convert
    from hanbit.data.prepare import prepare
    from hanbit.engine.embedder import Embedder
    from hanbit.engine.llm import LLM
    from hanbit.engine.sampling_params import SamplingParams
    from hanbit.engine.structured_outputs import StructuredOutputs
    from hanbit.server.run import serve
    from hanbit.train.run import train
    from hanbit.train.tune import tune

__version__ = "0.1.0"
__all__ = ["LLM", "Embedder", "SamplingParams", "StructuredOutputs", "convert", "prepare", "serve", "train", "tune"]

_HOMES = {
    "Embedder": "hanbit.engine.embedder",
    "LLM": "hanbit.engine.llm",
    "SamplingParams": "hanbit.engine.sampling_params",
    "StructuredOutputs": "hanbit.engine.structured_outputs",
    "convert": "hanbit.convert.convert",
    "prepare": "hanbit.data.prepare",
    "serve": "hanbit.server.run",
    "train": "hanbit.train.run",
    "tune": "hanbit.train.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"hanbit has no {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
