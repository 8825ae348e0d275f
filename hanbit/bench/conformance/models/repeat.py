"""A response for every number of IN, each after DELAY milliseconds; with FAIL the last one is an error.

Stops when the request is cancelled. COUNT asks how many responses were made of all requests until now.
"""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

_made = 0


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=_answer, args=(request,)).start()


def _answer(request):
    global _made
    sender = request.get_response_sender()
    numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
    if pb_utils.get_input_tensor_by_name(request, "COUNT") is not None:
        numbers = [_made]
    delay, fail = (pb_utils.get_input_tensor_by_name(request, name) for name in ("DELAY", "FAIL"))
    seconds = 0.0 if delay is None else int(delay.as_numpy()[0]) / 1000
    for index, number in enumerate(numbers):
        time.sleep(seconds)
        if request.is_cancelled():
            break
        _made += 1
        sender.send(
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("OUT", np.array([number], np.int32)),
                    pb_utils.Tensor("INDEX", np.array([index], np.uint32)),
                ]
            )
        )
    if fail is not None and bool(fail.as_numpy()[0]):
        sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("asked to fail")))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
