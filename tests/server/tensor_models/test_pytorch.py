"""TorchScript and exported programs answer through real clients as the module does; what would be code is refused."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from hanbit.common.errors import FormatError
from hanbit.server.tensor_models.exported_archive import check_exported
from tests.server.served import Served, serving

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is, and is still Triton's format


class Two(torch.nn.Module):
    """A sum and a difference, so that nobody can mistake one for the other, and weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer(left) + right, left - 2 * right


class Counts(torch.nn.Module):
    """Keeps something from call to call, and writes into its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x += 1
        return self.calls + 0 * x


class ByName(torch.nn.Module):
    def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"twice": given["b"] * 2, "half": given["a"] / 2}


class Branches(torch.nn.Module):
    """What was exported with more than three rows is not valid for fewer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[0] > 3 else x * 3


def tensor_lines(kind: str, datatype: str, *names: str, dims: str = "[ 3 ]") -> str:
    return "\n".join(f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {dims} }}' for name in names)


def put(repository: Path, name: str, config: str | None) -> Path:
    """The version's folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return folder


def export(module: torch.nn.Module, path: Path, *examples: torch.Tensor) -> None:
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in examples)
    torch.export.save(torch.export.export(module.eval(), examples, dynamic_shapes=shapes), path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    numbered = tensor_lines("input", "FP32", "INPUT__1", "INPUT__0") + tensor_lines(
        "output", "FP32", "OUT__1", "OUT__0"
    )
    named = tensor_lines("input", "FP32", "right", "left") + tensor_lines("output", "FP32", "sum", "difference")
    batches = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 1000 }"
    scripted = torch.jit.script(Two().eval())
    scripted.save(str(put(folder, "numbered", f'platform: "pytorch_libtorch" {batches} {numbered}') / "model.pt"))
    scripted.save(str(put(folder, "named", f"{batches} {named}") / "model.pt"))
    config = tensor_lines("input", "FP32", "a", "b") + tensor_lines("output", "FP32", "twice", "half")
    torch.jit.script(ByName()).save(str(put(folder, "by_name", config) / "model.pt"))
    config = tensor_lines("input", "FP32", "x") + tensor_lines("output", "FP32", "OUT__0")
    config += "instance_group { count: 2 kind: KIND_CPU }"
    torch.jit.script(Counts()).save(str(put(folder, "counts", config) / "model.pt"))
    examples = (torch.ones(4, 3), torch.ones(4, 3))
    export(Two(), put(folder, "exported", None) / "model.pt2", *examples)
    export(Two(), put(folder, "exported_numbered", f"max_batch_size: 4 {numbered}") / "model.pt2", *examples)
    export(Branches(), put(folder, "branches", None) / "model.pt2", torch.ones(5, 3))
    config = tensor_lines("input", "BF16", "x") + tensor_lines("output", "BF16", "OUT__0")
    torch.jit.trace(torch.nn.Identity(), torch.ones(3)).save(str(put(folder, "bfloat", config) / "model.pt"))
    return folder


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as found:
        yield found


def infer(address: str, model: str, client: Any = http_client, datatype: str = "FP32", **arrays: np.ndarray) -> Any:
    inputs = []
    for name, data in arrays.items():
        tensor = client.InferInput(name, list(data.shape), datatype)
        tensor.set_data_from_numpy(data)
        inputs.append(tensor)
    with client.InferenceServerClient(address) as found:
        return found.infer(model, inputs)


def pair(rows: int = 2) -> tuple[np.ndarray, np.ndarray]:
    found = np.random.default_rng(0).normal(size=(2, rows, 3)).astype(np.float32)
    return found[0], found[1]


def expected(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    module = Two()
    weight, bias = module.layer.weight.detach().numpy(), module.layer.bias.detach().numpy()
    return left @ weight.T + bias + right, left - 2 * right


@pytest.mark.parametrize("client", [http_client, grpc_client])
@pytest.mark.parametrize(
    ("model", "names", "outputs"),
    [
        ("numbered", ("INPUT__0", "INPUT__1"), ("OUT__0", "OUT__1")),
        ("named", ("left", "right"), ("sum", "difference")),
        ("exported", ("left", "right"), ("OUTPUT__0", "OUTPUT__1")),
        ("exported_numbered", ("INPUT__0", "INPUT__1"), ("OUT__0", "OUT__1")),
    ],
)
def test_answers_are_the_modules(model: str, names: Any, outputs: Any, client: Any, served: Served) -> None:
    left, right = pair()
    address = served.http if client is http_client else served.grpc
    result = infer(address, model, client, **{names[0]: left, names[1]: right})
    for name, one in zip(outputs, expected(left, right), strict=True):
        np.testing.assert_allclose(result.as_numpy(name), one, rtol=1e-5, atol=1e-6)


def test_an_exported_program_says_what_it_takes(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        config = client.get_model_config("exported")
    assert (config["backend"], config["platform"]) == ("pytorch", "pytorch_libtorch")
    assert config["default_model_filename"] == "model.pt2"
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [
        ("left", "TYPE_FP32", [3]),
        ("right", "TYPE_FP32", [3]),
    ]
    assert config["max_batch_size"] == 4


def test_tensors_go_in_and_out_by_the_keys_of_dicts(served: Served) -> None:
    a, b = pair(1)
    result = infer(served.http, "by_name", a=a[0], b=b[0])
    np.testing.assert_allclose(result.as_numpy("twice"), b[0] * 2)
    np.testing.assert_allclose(result.as_numpy("half"), a[0] / 2)


def test_instances_share_nothing_that_a_module_keeps(served: Served) -> None:
    x = np.zeros(3, np.float32)
    for call in range(1, 4):  # one after another: all go to the first instance
        np.testing.assert_array_equal(infer(served.http, "counts", x=x).as_numpy("OUT__0"), [call] * 3)


def test_bfloat16_goes_through(served: Served) -> None:
    x = np.array([1.5, -2, 3.0], ml_dtypes.bfloat16)
    tensor = grpc_client.InferInput("x", [3], "BF16")
    tensor.set_data_from_numpy(x)
    with grpc_client.InferenceServerClient(served.grpc) as client:
        result = client.infer("bfloat", [tensor])
    np.testing.assert_array_equal(result.as_numpy("OUT__0"), x)


def test_what_a_program_was_not_exported_for_is_refused(served: Served) -> None:
    x = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(infer(served.http, "branches", x=x).as_numpy("OUTPUT__0"), x * 2)
    with pytest.raises(InferenceServerException) as caught:
        infer(served.http, "branches", x=x[:2])
    assert caught.value.status() == "400"
    assert "Guard failed" in caught.value.message()


def test_bad_models_are_refused_by_name(tmp_path: Path) -> None:
    both = tensor_lines("input", "FP32", "x") + tensor_lines("output", "FP32", "y")
    script = torch.jit.trace(torch.nn.Identity(), torch.ones(3))
    torch.save(torch.nn.Identity(), put(tmp_path, "pickled", both) / "model.pt")
    torch.save({"w": torch.ones(3)}, put(tmp_path, "weights", both) / "model.pt")
    (put(tmp_path, "junk", both) / "model.pt").write_bytes(b"junk")
    put(tmp_path, "missing", f'backend: "pytorch" {both}')
    script.save(str(put(tmp_path, "silent", None) / "model.pt"))
    config = tensor_lines("input", "FP32", "x", "z") + tensor_lines("output", "FP32", "y")
    script.save(str(put(tmp_path, "too_many", config) / "model.pt"))
    config = tensor_lines("input", "FP32", "I__0") + tensor_lines("output", "FP32", "O__1")
    script.save(str(put(tmp_path, "numbered", config) / "model.pt"))
    script.save(str(put(tmp_path, "texts", both.replace("FP32", "STRING")) / "model.pt"))
    export(Two(), put(tmp_path, "contradicts", both) / "model.pt2", torch.ones(4, 3), torch.ones(4, 3))
    says = {
        "pickled": "A pickle of a module",
        "weights": "weights alone",
        "junk": "neither TorchScript",
        "missing": "is missing",
        "silent": "config.pbtxt must say",
        "too_many": "config.pbtxt has 2 inputs",
        "numbered": "numbered from 0",
        "texts": "is BYTES",
        "contradicts": "no input 'x'; it has left, right",
    }
    with (
        serving(tmp_path, fail_if_a_model_fails=False) as served,
        http_client.InferenceServerClient(served.http) as client,
    ):
        index = {line["name"]: line for line in client.get_model_repository_index()}
    for name, text in says.items():
        assert index[name]["state"] == "UNAVAILABLE", name
        assert text in index[name]["reason"], (name, index[name]["reason"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "m.pt2"
    export(Branches(), path, torch.ones(5, 3))
    return path


def changed(source: Path, target: Path, change: Any) -> Path:
    """A copy whose program, as JSON, is changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("models/model.json"):
                value = json.loads(content)
                change(value)
                content = json.dumps(value).encode()
            new.writestr(info.filename, content)
    return target


def nodes(value: Any) -> Any:
    return value["graph_module"]["graph"]["nodes"]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: nodes(value)[0].update(target="torch.serialization.os.system"),
        lambda value: nodes(value)[0].update(target="torch.ops.aten.from_file.default"),
        lambda value: nodes(value)[0].update(target="torch.hub.load"),
        lambda value: value.update(guards_code=["__import__('os').system('touch /tmp/no')"]),
        lambda value: value.update(guards_code=["L['x'].__class__"]),
        lambda value: value.update(guards_code=["(lambda: 1)()"]),
        lambda value: value.update(guards_code=["L['x'].size().__len__()"]),
        lambda value: nodes(value)[0].update(name="x\nimport os"),
        lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=["x=__import__('os')"]
        ),
        lambda value: value["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "mine.Type", "context": "null", "children_spec": []}]'
        ),
        lambda value: value["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].append(
            {"as_expr": {"expr_str": "().__class__.__bases__[0]", "hint": None}}
        ),
        lambda value: value["graph_module"]["graph"]["tensor_values"]["x"]["sizes"].append(
            {"as_expr": {"expr_str": "exec('1')", "hint": None}}
        ),
    ],
)
def test_programs_that_would_run_code_are_refused(change: Any, exported: Path, tmp_path: Path) -> None:
    check_exported(exported)
    with pytest.raises(FormatError):
        check_exported(changed(exported, tmp_path / "m.pt2", change))


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("m/data/aotinductor/model/x.so", b"\x7fELF"),
        ("m/data/constants/opaque_obj_0", b"cos\nsystem\n(S'true'\ntR."),
        ("m/data/sample_inputs/model.pt", b"cos\nsystem\n(S'true'\ntR."),
        (
            "m/data/weights/model_weights_config.json",
            b'{"config": {"w": {"path_name": "weight_0", "use_pickle": true}}}',
        ),
        ("m/models/../../../x", b""),
    ],
)
def test_archives_with_more_than_a_program_are_refused(
    entry: str, content: bytes, exported: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(tmp_path / "m.pt2", "w") as new:
        for info in old.infolist():
            if info.filename.partition("/")[2] != entry.partition("/")[2]:
                new.writestr(info.filename, old.read(info))
        new.writestr(entry, content)
    with pytest.raises(FormatError):
        check_exported(tmp_path / "m.pt2")
