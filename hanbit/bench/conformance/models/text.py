"""Every text backwards, character by character; `times` (tensor or parameter) repeats it."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [_answer(request) for request in requests]


def _answer(request):
    texts = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
    times = pb_utils.get_input_tensor_by_name(request, "times")
    count = json.loads(request.parameters()).get("times", 1) if times is None else int(times.as_numpy()[0])
    found = [text.decode()[::-1].encode() * count for text in texts.ravel()]
    made = np.array(found, dtype=np.object_).reshape(texts.shape)
    return pb_utils.InferenceResponse([pb_utils.Tensor("text_output", made)])
