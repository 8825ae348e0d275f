"""A model's `model.py` as a module, with `triton_python_backend_utils` to import.

In a process of its own a model is imported as Triton does it: as `VERSION.model`, its folders in sys.path. Inside the
server it is a package of its own, so that two models with a `model.py` are two modules; there, modules beside it are
found by `from . import`, or by their plain names as long as no two models use the same.
"""

import importlib
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from hanbit.server.python_models import triton_python_backend_utils as utils
from hanbit.server.python_models.api_errors import TritonModelException

_UTILS = "triton_python_backend_utils"
_CLASS = "TritonPythonModel"
_importing = threading.Lock()


def model_class(folder: Path, version: str, file: str = "model.py") -> Any:
    """Of a process that has this model only."""
    sys.modules[_UTILS] = utils
    sys.path += [str(folder / version), str(folder)]
    return _class_of(importlib.import_module(f"{version}.{Path(file).stem}"))


def model_class_inside(folder: Path, version: str, file: str = "model.py") -> Any:
    """A new one with every call, beside others."""
    with _importing:
        sys.modules[_UTILS] = utils
        name = f"_hanbit_model_{len(sys.modules)}_{folder.name}_{version}"
        package = ModuleType(name)
        package.__path__ = [str(folder / version)]
        sys.modules[name] = package
        for path in (str(folder / version), str(folder)):
            if path not in sys.path:
                sys.path.append(path)
        importlib.invalidate_caches()
        return _class_of(importlib.import_module(f"{name}.{Path(file).stem}"))


def _class_of(module: ModuleType) -> Any:
    found = getattr(module, _CLASS, None)
    if not isinstance(found, type) or not callable(getattr(found, "execute", None)):
        raise TritonModelException(f"{module.__file__} must have a class {_CLASS} with a method execute")
    return found
