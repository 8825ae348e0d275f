"""`Tensor` of `triton_python_backend_utils`: a name and an array, which other frameworks take by DLPack.

A tensor of a GPU, or of bfloat16, came from PyTorch and stays one of its tensors; torch is imported only then.
"""

import sys
from typing import Any

import numpy as np

from hanbit.server.python_models.api_errors import TritonModelException
from hanbit.server.python_models.datatypes import BF16, number_of, raw_of, wire_name

_CPU = 1  # DLPack's number of the device


class Tensor:
    """`numpy_array`: of a dtype that Triton has; texts and bytes as objects."""

    __slots__ = ("_array", "_name", "_of_torch", "_type")

    def __init__(self, name: str, numpy_array: np.ndarray) -> None:
        if not isinstance(numpy_array, np.ndarray):
            raise TritonModelException(f"tensor {name!r} is made of a numpy array, not of {type(numpy_array).__name__}")
        datatype = wire_name(numpy_array.dtype)
        if datatype is None:
            raise TritonModelException(
                f"tensor {name!r} has the dtype {numpy_array.dtype}, which Triton has not. Use np.object_ for texts"
            )
        self._name, self._array, self._type = name, numpy_array, datatype
        self._of_torch: Any = None

    @classmethod
    def _made(cls, name: str, datatype: str, array: np.ndarray) -> "Tensor":
        """Of what is known to fit."""
        self = cls.__new__(cls)
        self._name, self._array, self._type, self._of_torch = name, array, datatype, None
        return self

    def name(self) -> str:
        return self._name

    def triton_dtype(self) -> int:
        return number_of(self._type)

    def shape(self) -> list[int]:
        return list((self._array if self._of_torch is None else self._of_torch).shape)

    def is_cpu(self) -> bool:
        return self._of_torch is None or self._of_torch.device.type == "cpu"

    def as_numpy(self) -> np.ndarray:
        """Without a copy, but where the array may not be written: models do write into their inputs."""
        if self._of_torch is not None and self._of_torch.device.type != "cpu":
            raise TritonModelException(f"tensor {self._name!r} is on a GPU: use to_dlpack")
        if self._type == BF16:
            raise TritonModelException(f"tensor {self._name!r} is BF16, which numpy has not: use to_dlpack")
        if not self._array.flags.writeable:
            self._array = self._array.copy()
        return self._array

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """`tensor`: a DLPack capsule, or what has `__dlpack__`; contiguous, in row-major order."""
        torch = sys.modules.get("torch")
        if torch is not None:
            return _from_torch(name, torch.from_dlpack(tensor))
        if not hasattr(tensor, "__dlpack__"):
            tensor = _Capsule(tensor)
        if tensor.__dlpack_device__()[0] != _CPU:
            raise TritonModelException(f"tensor {name!r} is on a GPU; import torch in the model, which takes it there")
        array = np.from_dlpack(tensor)
        if not array.flags.c_contiguous:
            raise TritonModelException(f"tensor {name!r} is not contiguous in row-major order")
        return Tensor(name, array)

    def to_dlpack(self) -> Any:
        return self.__dlpack__()

    def __dlpack__(self, *, stream: Any = None, **more: Any) -> Any:
        if self._of_torch is None and self._type == BF16:
            self._of_torch = _bfloat16(self._array)
        if self._of_torch is not None:
            return self._of_torch.__dlpack__(stream=stream)
        if self._array.dtype.kind in "OS":
            raise TritonModelException(f"tensor {self._name!r} is of texts, which DLPack has not: use as_numpy")
        return self.as_numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        if self._of_torch is not None:
            return self._of_torch.__dlpack_device__()
        return (_CPU, 0)


class _Capsule:
    """numpy takes what has the two methods; a bare capsule is of the CPU where torch is not there."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **more: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0)


def datatype_of(tensor: Tensor) -> str:
    """The wire name."""
    return tensor._type


def elements_of(tensor: Tensor) -> np.ndarray:
    """On the CPU, as they are: not to be written. BF16 as its bits."""
    if tensor._of_torch is not None:
        import torch

        found = tensor._of_torch.detach().cpu().contiguous()
        return (found.view(torch.int16) if tensor._type == BF16 else found).numpy()
    return tensor._array


def raw_of_tensor(tensor: Tensor) -> bytes | memoryview:
    return raw_of(elements_of(tensor))


def _from_torch(name: str, found: Any) -> Tensor:
    if not found.is_contiguous():
        raise TritonModelException(f"tensor {name!r} is not contiguous in row-major order")
    is_bf16 = str(found.dtype) == "torch.bfloat16"
    if found.device.type == "cpu" and not is_bf16:
        return Tensor(name, found.detach().numpy())
    datatype = BF16 if is_bf16 else wire_name(found.new_empty(0, device="cpu").numpy().dtype)
    if datatype is None:
        raise TritonModelException(f"tensor {name!r} is of {found.dtype}, which Triton has not")
    tensor = Tensor._made(name, datatype, np.empty(0))
    tensor._of_torch = found
    return tensor


def _bfloat16(bits: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
