"""What a model sees of a request besides its tensors, as JSON."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [_answer(request) for request in requests]


def _answer(request):
    seen = {
        "parameters": json.loads(request.parameters()),
        "id": request.request_id(),
        "outputs": sorted(request.requested_output_names()),
        "timeout": request.timeout(),
    }
    made = np.array([json.dumps(seen).encode()], np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", made)])
