"""Twice the number, plus the model's version: there are versions 1 and 3."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", (one * 2 + self.version).astype(np.int32))])
            for one in (request.inputs()[0].as_numpy() for request in requests)
        ]
