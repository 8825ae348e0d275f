"""Repositories of Python models that tests write: code as a user would write it, and its config.pbtxt."""

import textwrap
from pathlib import Path

IMPORTS = """
import asyncio, json, os, signal, sys, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils
"""
NUMBERS = (
    'input { name: "X" data_type: TYPE_INT32 dims: [ -1 ] } output { name: "Y" data_type: TYPE_INT32 dims: [ -1 ] }'
)
PLACES = ("process", "thread", "inline")


def write_model(
    repository: Path, name: str, methods: str, config: str = NUMBERS, place: str = "process", **parameters: object
) -> Path:
    """`methods`: of TritonPythonModel, over `IMPORTS`. The model's folder."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    body = textwrap.indent(textwrap.dedent(methods), "    ")
    (folder / "1" / "model.py").write_text(f"{IMPORTS}\n\nclass TritonPythonModel:\n{body}\n")
    lines = ['backend: "python"', config]
    for key, value in {"place": place, **parameters}.items():
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}')
    (folder / "config.pbtxt").write_text("\n".join(lines))
    return folder


# answers with X + 1
PLUS_ONE = """
def execute(self, requests):
    found = []
    for request in requests:
        x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy()
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x + 1)]))
    return found
"""
# as many responses as X says, 0, 1, 2, ...
COUNT = """
def execute(self, requests):
    for request in requests:
        sender = request.get_response_sender()
        for index in range(int(pb_utils.get_input_tensor_by_name(request, "X").as_numpy()[0])):
            y = pb_utils.Tensor("Y", np.array([index], np.int32))
            sender.send(pb_utils.InferenceResponse([y]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
DECOUPLED = f"{NUMBERS} model_transaction_policy {{ decoupled: true }}"
