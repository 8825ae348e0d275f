"""Adds the configuration's parameter `add`: the model that is loaded, unloaded and loaded otherwise."""

import json

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.add = int(json.loads(args["model_config"])["parameters"]["add"]["string_value"])

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one + self.add)])
            for one in (request.inputs()[0].as_numpy() for request in requests)
        ]
