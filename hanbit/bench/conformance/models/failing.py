"""1: an error of the model's. 2: an exception that nobody catches. 3: an error with a code. Others come back."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [_answer(request) for request in requests]


def _answer(request):
    number = request.inputs()[0].as_numpy()
    if number[0] == 1:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("one is refused"))
    if number[0] == 2:
        raise ValueError("two is not foreseen")
    if number[0] == 3:
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError("three is not there", pb_utils.TritonError.NOT_FOUND)
        )
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", number)])
