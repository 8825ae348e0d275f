"""The sum of a sequence's numbers so far, by the control inputs that the sequence batcher adds."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        number, start, end, ready, name = (
            pb_utils.get_input_tensor_by_name(request, one).as_numpy().ravel()[0]
            for one in ("IN", "START", "END", "READY", "CORRID")
        )
        if not ready:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a request that is not ready"))
        if start:
            self.sums[name] = 0
        self.sums[name] += int(number)
        total = self.sums.pop(name) if end else self.sums[name]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([[total]], np.int32))])
