"""What comes, as it came."""

from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            block = pb_utils.get_input_tensor_by_name(request, "BLOCK").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SAME", block)]))
        return responses
