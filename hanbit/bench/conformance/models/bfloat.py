"""Gives a BF16 tensor back, by DLPack: numpy has no such numbers."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([_same(request.inputs()[0])]) for request in requests]


def _same(tensor):
    return pb_utils.Tensor.from_dlpack("OUT", tensor.to_dlpack())
