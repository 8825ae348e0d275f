"""What a Python model's file may say, and what the model may add to it."""

import subprocess
import sys
from pathlib import Path

import pytest
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from tests.server.asking import Http
from tests.server.python_models.test_answers import numbers, tensor
from tests.server.python_models.test_asking import asked
from tests.server.python_models.written import IMPORTS, NUMBERS, PLACES, PLUS_ONE, write_model
from tests.server.served import serving

COMPLETES = """
@staticmethod
def auto_complete_config(config):
    config.add_input({"name": "X", "data_type": "TYPE_INT32", "dims": [-1]})
    config.add_output({"name": "Y", "data_type": "TYPE_INT32", "dims": [-1]})
    config.set_max_batch_size(4)
    config.set_dynamic_batching()
    config.set_model_transaction_policy({"decoupled": False})
    return config
"""


def adds(kind: str, name: str, datatype: str, dim: int) -> str:
    return f'config.add_{kind}({{"name": "{name}", "data_type": "{datatype}", "dims": [{dim}]}})'


@pytest.mark.parametrize("place", PLACES)
def test_a_model_completes_its_configuration(tmp_path: Path, place: str) -> None:
    write_model(tmp_path, "completes", COMPLETES + PLUS_ONE, "", place)
    with serving(tmp_path) as served:
        config = Http(served.http).ask("/v2/models/completes/config", method="GET").json()
        assert config["max_batch_size"] == 4
        assert config["input"][0]["dims"] == [-1]
        assert config["dynamic_batching"]["preserve_ordering"] is False
        with http_client.InferenceServerClient(served.http) as client:
            value = numbers(1, 2).reshape(1, 2)
            assert client.infer("completes", [tensor(http_client, "X", value)]).as_numpy("Y").tolist() == [[2, 3]]


def test_a_model_without_a_file_completes_all_of_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bare", COMPLETES + PLUS_ONE)
    (folder / "config.pbtxt").unlink()
    with serving(tmp_path) as served:
        assert Http(served.http).ask("/v2/models/bare", method="GET").json()["inputs"][0]["shape"] == [-1, -1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (adds("input", "X", "TYPE_FP32", -1), "data_type is TYPE_INT32 in the file, TYPE_FP32"),
        (adds("input", "X", "TYPE_INT32", 2), r"dims is \[-1\] in the file"),
        ('config.add_input({"name": "Z"})', "lacks"),
        ('config.add_input({"name": "Z", "shape": [1]})', "has 'shape'"),
        (adds("output", "Z", "TYPE_NONE", 1), "gives what is no configuration"),
        ("config = None", "returned NoneType, not the ModelConfig"),
        ("config.set_max_batch_size(1)", "max_batch_size is 2 in the file, and 1"),
        ("raise OSError('not there')", "auto_complete_config raised OSError: not there"),
    ],
)
def test_a_completion_that_contradicts_the_file_is_refused(tmp_path: Path, code: str, words: str) -> None:
    methods = f"@staticmethod\ndef auto_complete_config(config):\n    {code}\n    return config\n{PLUS_ONE}"
    write_model(tmp_path, "wrong", methods, f"{NUMBERS} max_batch_size: 2", "inline")
    with serving(tmp_path, fail_if_a_model_fails=False) as served, pytest.raises(InferenceServerException, match=words):
        asked(served.http, "wrong", 1)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"place": "cupboard"}, "place 'cupboard' must be one of process, thread, inline"),
        ({"start_seconds": "soon"}, "start_seconds 'soon' must be seconds"),
        ({"hang_seconds": "0"}, "hang_seconds '0' must be seconds, more than 0"),
        ({"EXECUTION_ENV_PATH": "/nowhere.tar.gz"}, "are not unpacked here: unpack it"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(tmp_path: Path, parameters: dict[str, str], words: str) -> None:
    write_model(tmp_path, "wrong", PLUS_ONE, **parameters)  # type: ignore[arg-type]
    with serving(tmp_path, fail_if_a_model_fails=False) as served, pytest.raises(InferenceServerException, match=words):
        asked(served.http, "wrong", 1)


def test_a_model_that_has_no_file_of_python_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "wrong", PLUS_ONE)
    (folder / "1" / "model.py").unlink()
    with (
        serving(tmp_path, fail_if_a_model_fails=False) as served,
        pytest.raises(InferenceServerException, match=r"has no 'model\.py'"),
    ):
        asked(served.http, "wrong", 1)


def test_modules_beside_a_model_are_found_as_with_triton(tmp_path: Path) -> None:
    for place in ("process", "inline"):
        methods = PLUS_ONE.replace("x + 1", "x + beside.ONE + near.TWO")
        folder = write_model(tmp_path, place, methods, place=place)
        file = folder / "1" / "model.py"
        file.write_text(f"import beside\nfrom . import near\n{file.read_text()}")
        (folder / "1" / "beside.py").write_text("ONE = 1")
        (folder / "1" / "near.py").write_text("TWO = 2")
    with serving(tmp_path) as served:
        assert asked(served.http, "process", 1) == [4]
        assert asked(served.http, "inline", 1) == [4]


def test_an_environment_of_its_own_needs_numpy_only(tmp_path: Path) -> None:
    """A virtual environment that sees this one's numpy, and no hanbit."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    import numpy

    packages = next((environment / "lib").glob("python*")) / "site-packages"
    for name in (Path(numpy.__file__).parent.name, "numpy.libs"):
        source = Path(numpy.__file__).parents[1] / name
        if source.exists():
            (packages / name).symlink_to(source)
    tells = PLUS_ONE.replace("x + 1", "x + len([name for name in sys.modules if name == 'torch'])")
    tells += '\ndef initialize(self, args):\n    assert sys.prefix.endswith("environment"), sys.prefix\n'
    repository = tmp_path / "models"
    write_model(repository, "apart", tells, EXECUTION_ENV_PATH=str(environment))
    with serving(repository) as served:
        assert asked(served.http, "apart", 1) == [1]


def test_a_reload_takes_the_new_code_and_a_failing_one_keeps_the_old(tmp_path: Path) -> None:
    for place in PLACES:
        write_model(tmp_path, place, PLUS_ONE, place=place)
    with (
        serving(tmp_path, clients_change_models=True, load=PLACES) as served,
        http_client.InferenceServerClient(served.http) as client,
    ):
        for place in PLACES:
            file = tmp_path / place / "1" / "model.py"
            assert asked(served.http, place, 1) == [2]
            file.write_text(f"{IMPORTS}\nthis is no Python")
            with pytest.raises(InferenceServerException, match="SyntaxError"):
                client.load_model(place)
            assert asked(served.http, place, 1) == [2]
            write_model(tmp_path / "new", place, PLUS_ONE.replace("x + 1", "x + 10"))
            file.write_text((tmp_path / "new" / place / "1" / "model.py").read_text())
            client.load_model(place)
            assert asked(served.http, place, 1) == [11]
            client.unload_model(place)
            assert not client.is_model_ready(place)
