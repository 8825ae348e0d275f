"""Numbers of bytes to the text that they are."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            ids = pb_utils.get_input_tensor_by_name(request, "REVERSED").as_numpy()
            text = np.array([ids.astype(np.uint8).tobytes()], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("BACK", text)]))
        return responses
