"""The best classes of an output, held against a plain sort."""

from pathlib import Path

import numpy as np
import pytest

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import parse_config
from hanbit.server.errors import RequestError
from hanbit.server.extensions.classification import classes_wanted, classified, read_labels
from hanbit.server.request import InferRequest, InferResponse, RequestedOutput
from hanbit.server.tensors import Tensor

CONFIG = 'backend: "x" max_batch_size: 4 output [{ name: "OUT" data_type: TYPE_FP32 dims: [-1] label_filename: "l" }]'


def best(data: np.ndarray, count: int, labels: tuple[str, ...] = (), batch: int = 4) -> Tensor:
    config = parse_config(CONFIG.replace("max_batch_size: 4", f"max_batch_size: {batch}"), "test")
    request = InferRequest("m", {}, outputs=(RequestedOutput("OUT", {"classification": count}),))
    response = InferResponse({"OUT": Tensor("OUT", "FP32", data.shape, data)})
    return classified(config, {"OUT": labels}, request, response)["OUT"]


def test_a_batch_is_ranked_row_by_row() -> None:
    rows = np.random.default_rng(0).random((3, 50), np.float32)
    rows[:, 10] = rows[:, 20]  # equal values
    found = best(rows, 50)
    assert (found.datatype, found.shape) == ("BYTES", (3, 50))
    for row, texts in zip(rows, found.data, strict=True):
        order = sorted(range(50), key=lambda index: (-row[index], index))
        assert [int(text.split(b":")[1]) for text in texts] == order
        assert texts[0] == f"{row[order[0]]:f}:{order[0]}".encode()


def test_labels_stand_where_there_are_some() -> None:
    found = best(np.array([[1.0, 3.0, 2.0]], np.float32), 3, ("a", "b"))
    assert found.data.tolist() == [[b"3.000000:1:b", b"2.000000:2", b"1.000000:0:a"]]


def test_integers_are_written_whole_and_what_is_no_number_comes_last() -> None:
    assert best(np.array([2**63 + 1, 5], np.uint64), 1, batch=0).data.tolist() == [b"9223372036854775809:0"]
    assert best(np.array([-(2**63), 5], np.int64), 2, batch=0).data.tolist() == [b"5:1", b"-9223372036854775808:0"]
    found = best(np.array([np.nan, 1.0, -np.inf], np.float32), 3, batch=0).data.tolist()
    assert [text.split(b":")[1] for text in found] == [b"1", b"0", b"2"]


def test_an_empty_row_has_no_classes() -> None:
    assert best(np.zeros((2, 0), np.float32), 3).shape == (2, 0)


@pytest.mark.parametrize("count", [-1, "2", 1.5, True])
def test_a_count_that_is_none_is_refused(count: object) -> None:
    with pytest.raises(RequestError, match="must be a whole number from 0"):
        classes_wanted(parse_config(CONFIG, "test"), "OUT", {"classification": count})


def test_text_has_no_classes() -> None:
    config = parse_config(CONFIG.replace("TYPE_FP32", "TYPE_STRING"), "test")
    with pytest.raises(RequestError, match="BYTES, which has no classes"):
        classes_wanted(config, "OUT", {"classification": 1})
    assert classes_wanted(config, "OUT", {"classification": 0}) == 0


def test_labels_are_lines_of_a_file_in_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "l").write_text("고양이\ndog\n")
    assert read_labels(parse_config(CONFIG, "test"), folder) == {"OUT": ("고양이", "dog")}
    (tmp_path / "secret").write_text("x")
    for name, words in (("../secret", "within the model's folder"), ("nothing", "can be read")):
        with pytest.raises(RepositoryError, match=words):
            read_labels(parse_config(CONFIG.replace('"l"', f'"{name}"'), "test"), folder)
