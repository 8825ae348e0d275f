"""Loads that bring their own configuration and files: what is taken, and which paths are not."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from hanbit.server.errors import RequestError
from hanbit.server.extensions.overrides import override_of

CONFIG = json.dumps({"backend": "python", "max_batch_size": 3})
CONTENT = base64.b64encode(b"content").decode()


def test_a_load_without_parameters_is_of_the_repository() -> None:
    assert override_of("m", {}, False) is None


def test_a_configuration_alone_keeps_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "m" / "4").mkdir(parents=True)
    found = override_of("m", {"config": CONFIG}, False)
    assert found is not None
    model = found.applied("m", tmp_path / "m", tmp_path)
    assert (model.name, model.versions, model.config.max_batch_size) == ("m", (4,), 3)


@pytest.mark.parametrize("content", [CONTENT, b"content"])
def test_files_make_a_folder_of_their_own(tmp_path: Path, content: Any) -> None:
    (tmp_path / "m" / "4").mkdir(parents=True)
    scratch = tmp_path / "scratch"
    found = override_of("m", {"config": CONFIG, "file:1/model.py": content, "file:1/a/b.txt": content}, True)
    assert found is not None
    model = found.applied("m", tmp_path / "m", scratch)
    assert (model.folder, model.versions) == (scratch / "m", (1,))
    assert (scratch / "m/1/model.py").read_bytes() == (scratch / "m/1/a/b.txt").read_bytes() == b"content"


@pytest.mark.parametrize(
    "path",
    ["../x", "1/../../x", "/etc/x", "1/..", "1//x", "./1/x", "1/.x", "0/x", "01/x", "x/model.py", "1/a\0b", "1/a b",
     "1\\x", "config.pbtxt", "CONFIG.PBTXT", "", "1/", "1/" + "a/" * 20 + "x", "1/" + "x" * 300],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        override_of("m", {"config": CONFIG, f"file:{path}": CONTENT}, True)
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [({"config": "nope"}, "not JSON"), ({"config": 5}, "must be a text"), ({"config": "[]"}, "JSON object"),
     ({"config": '{"nothing": 1}'}, "no configuration"), ({"config": '{"name": "other"}'}, "is of model 'other'"),
     ({"config": '{"max_batch_size": -1, "backend": "x"}'}, "max_batch_size"), ({"other": 1}, "no parameter 'other'"),
     ({"config": "[" * 3000}, "config"), ({"file:1/model.py": CONTENT}, "need its config"),
     ({"config": CONFIG, "file:1/model.py": "***"}, "base64"), ({"config": CONFIG, "file:1/model.py": 5}, "base64")],
)  # fmt: skip
def test_what_is_no_load_is_refused_with_the_reason(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        override_of("m", parameters, True)
    assert caught.value.kind == "invalid"


def test_files_are_programs_and_want_the_operators_word() -> None:
    with pytest.raises(RequestError, match="--allow-client-files") as caught:
        override_of("m", {"config": CONFIG, "file:1/model.py": CONTENT}, False)
    assert caught.value.kind == "unsupported"
