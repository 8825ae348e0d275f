"""Sleeps DELAY milliseconds, then tells how many requests it had answered before."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.count = 0

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        time.sleep(int(request.inputs()[0].as_numpy().ravel()[0]) / 1000)
        order = np.array([[self.count]], np.uint32)
        self.count += 1
        return pb_utils.InferenceResponse([pb_utils.Tensor("ORDER", order)])
