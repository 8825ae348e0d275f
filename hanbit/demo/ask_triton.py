"""Ask a served model through NVIDIA's own client. Knows nothing of hanbit; works with Triton itself.

python -m hanbit.demo.ask_triton http 127.0.0.1:8000 smollm2 "What is the capital of France?"
python -m hanbit.demo.ask_triton grpc 127.0.0.1:8001 smollm2 "What is the capital of France?"
"""

import importlib
import sys

import numpy as np

MAX_TOKENS = 48


def ask(protocol: str, url: str, model: str, prompt: str) -> str:
    """The whole answer, the likeliest token at each step. protocol: http or grpc."""
    client = importlib.import_module(f"tritonclient.{protocol}")
    values = {
        "text_input": ("BYTES", np.array([prompt.encode()], dtype=np.object_)),
        "max_tokens": ("INT32", np.array([MAX_TOKENS], dtype=np.int32)),
        "temperature": ("FP32", np.array([0.0], dtype=np.float32)),
    }
    inputs = []
    for name, (datatype, array) in values.items():
        tensor = client.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    answer = client.InferenceServerClient(url).infer(model, inputs)
    return answer.as_numpy("text_output").flatten()[0].decode()


if __name__ == "__main__":
    print(ask(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]))
