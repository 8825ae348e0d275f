"""config.pbtxt: what Triton accepts is read, what is wrong is refused with file, line and way out."""

from pathlib import Path

import pytest

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import config_text, is_ensemble, parse_config, read_config, wire_datatype

# From the documentation of Triton's model configuration, shortened
TRITONS = """
platform: "tensorrt_plan"
backend: "tensorrt"
max_batch_size: 8
input [
  { name: "input0" data_type: TYPE_FP32 dims: [ 16 ] },
  { name: "input1" data_type: TYPE_STRING dims: [ -1, 4 ] optional: true }
]
output [ { name: "output0" data_type: TYPE_BF16 dims: [ 16 ] reshape: { shape: [ ] } } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
parameters { key: "adapter" value: { string_value: "x" } }
"""
ENSEMBLE = """
platform: "ensemble"
input {{ name: "a" data_type: TYPE_INT32 dims: 1 }}
output {{ name: "c" data_type: TYPE_INT32 dims: 1 }}
ensemble_scheduling {{
  step {{ model_name: "one" input_map {{ key: "x" value: "{}" }} output_map {{ key: "y" value: "b" }} }}
  step {{ model_name: "two" input_map {{ key: "x" value: "b" }} output_map {{ key: "y" value: "{}" }} }}
}}
"""


def test_a_configuration_of_tritons_is_read_and_survives_a_round() -> None:
    config = parse_config(TRITONS, "config.pbtxt")
    assert config.max_batch_size == 8
    assert [wire_datatype(one.data_type) for one in (*config.input, *config.output)] == ["FP32", "BYTES", "BF16"]
    assert parse_config(config_text(config), "again") == config
    assert is_ensemble(parse_config(ENSEMBLE.format("a", "c"), "config.pbtxt"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('backend: "x"\nmax_batch: 3', r'f:2:1 : .*no field named "max_batch"'),
        ('backend: "x"\n\ninput { name: 3 }', "f:3:15 : .*Expected string"),
        ("backend: 'x", "f:1:"),
        ('backend: "x" max_batch_size: 99999999999', "f:1:"),
        ('backend: "x" max_batch_size: -1', "max_batch_size: -1 must be 0"),
        ('name: "a/b" backend: "x"', "name 'a/b' must be"),
        ('name: "../up" backend: "x"', "name '../up' must be"),
        ("max_batch_size: 1", "name a backend"),
        ('backend: "x" input { data_type: TYPE_FP32 dims: 1 }', "input '' must have a name"),
        (
            'backend: "x" ' + 'input { name: "a" data_type: TYPE_FP32 dims: 1 }' * 2,
            "input 'a' must have a name, and one",
        ),
        ('backend: "x" output { name: "a" dims: 1 }', "output 'a' must have a data_type"),
        ('backend: "x" output { name: "a" data_type: TYPE_FP32 dims: 0 }', r"output 'a' has dims \[0\]"),
        ('backend: "x" output { name: "a" data_type: TYPE_FP32 dims: [ 9999999, 9999999, 9999999 ] }', "has dims"),
        ('platform: "ensemble"', "needs ensemble_scheduling"),
        (ENSEMBLE.format("z", "c"), "step 'one' reads 'z', which nothing gives"),
        (ENSEMBLE.format("c", "c"), "the steps from 'one' on wait for one another"),
        (ENSEMBLE.format("a", "b"), "tensor 'b' comes from two places"),
        (ENSEMBLE.format("a", "d"), "output 'c' comes from no step"),
    ],
)
def test_a_wrong_configuration_is_refused(text: str, words: str) -> None:
    with pytest.raises(RepositoryError, match=words):
        parse_config(text, "f")


def test_a_file_lends_the_folders_name_and_may_not_contradict_it(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text('backend: "x"')
    assert read_config(tmp_path).name == tmp_path.name
    path.write_text('name: "other" backend: "x"')
    with pytest.raises(RepositoryError, match="name 'other' must be the folder's name"):
        read_config(tmp_path)
    path.write_bytes(b'name: "\xff"')
    with pytest.raises(RepositoryError, match="not UTF-8"):
        read_config(tmp_path)
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(RepositoryError, match="at most 1048576 are read"):
        read_config(tmp_path)
    path.unlink()
    with pytest.raises(RepositoryError, match="is missing"):
        read_config(tmp_path)


def test_a_datatype_that_there_is_not_is_refused() -> None:
    with pytest.raises(RepositoryError, match="must have a data_type"):
        parse_config('backend: "x" input { name: "X" data_type: 99 dims: [ 1 ] }', "config")
