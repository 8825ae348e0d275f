"""Numbers in the opposite order."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            ids = pb_utils.get_input_tensor_by_name(request, "IDS").as_numpy()
            back = np.ascontiguousarray(ids[::-1])
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("REVERSED", back)]))
        return responses
