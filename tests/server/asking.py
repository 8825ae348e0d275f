"""What the tests send, through NVIDIA's clients and by plain HTTP."""

import http.client
import json
from dataclasses import dataclass
from email.message import Message
from typing import Any

import numpy as np

PROMPT = "The quick 안녕하세요"


def inputs(client: Any, binary: bool = True, **values: Any) -> list[Any]:
    """InferInputs of tritonclient.http or .grpc for the ensemble's tensors; over HTTP also as JSON."""
    made = []
    for name, value in {"text_input": PROMPT, "temperature": 0.0, **values}.items():
        datatype, array = _array(value)
        tensor = client.InferInput(name, list(array.shape), datatype)
        if "http" in client.__name__:
            tensor.set_data_from_numpy(array, binary_data=binary)
        else:
            tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def _array(value: Any) -> tuple[str, np.ndarray]:
    if isinstance(value, str | list):
        texts = [value] if isinstance(value, str) else value
        return "BYTES", np.array([text.encode() for text in texts], dtype=np.object_)
    if isinstance(value, bool):
        return "BOOL", np.array([value])
    if isinstance(value, float):
        return "FP32", np.array([value], dtype=np.float32)
    return "INT32", np.array([value], dtype=np.int32)


def text_of(result: Any) -> str:
    """BYTES come as bytes if they were raw, as text if they were JSON."""
    text = result.as_numpy("text_output").flatten()[0]
    return text if isinstance(text, str) else text.decode()


class Http:
    """Plain HTTP with the standard library."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> "Reply":
        """`body`: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            connection.request(method, path, content, {name.replace("_", "-"): one for name, one in headers.items()})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)

    def events(self) -> list[Any]:
        """Of a stream of server-sent events."""
        lines = self.content.decode().split("\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line]
