"""What `deploy` writes: read by Triton's own message, whole or not at all, nobody's models but its own replaced."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository import deploy as module
from hanbit.repository.deploy import deploy
from hanbit.repository.layout import model_names, read_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "한글 'model'"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def config_of(repository: Path, name: str) -> ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), ModelConfig())


def test_a_model_is_three_steps_and_an_ensemble(model: Path, adapter: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    done = deploy(model, "m", repository, {"tuned": adapter})
    assert done.names == ("m", "tuned")
    assert model_names(repository) == ["m", "m_detokenize", "m_model", "m_tokenize", "tuned", "tuned_model"]
    for name in model_names(repository):
        assert read_model(repository, name).versions == (1,)
        assert list((repository / name / "1").iterdir()) == []
    steps = [step.model_name for step in config_of(repository, "tuned").ensemble_scheduling.step]
    assert steps == ["m_tokenize", "tuned_model", "m_detokenize"]
    tuned = config_of(repository, "tuned_model")
    assert tuned.backend == "hanbit"
    assert tuned.parameters["model_folder"].string_value == str(model)
    assert tuned.parameters["adapter"].string_value == str(adapter)
    assert "adapter" not in config_of(repository, "m_model").parameters
    assert config_of(repository, "m_tokenize").parameters["chat_template"].string_value == "auto"
    assert config_of(repository, "m").model_transaction_policy.decoupled


def test_a_run_folder_stands_for_its_model(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    model.rename(tmp_path / "run" / "model")
    deploy(tmp_path / "run", "m", tmp_path / "models")
    folder = config_of(tmp_path / "models", "m_model").parameters["model_folder"].string_value
    assert folder == str(tmp_path / "run" / "model")


def test_a_later_deploy_replaces_what_an_earlier_one_wrote(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    deploy(model, "m", repository)
    deploy(model, "m", repository, chat_template="none")
    assert config_of(repository, "m_tokenize").parameters["chat_template"].string_value == "none"
    assert all(not path.name.startswith(".") for path in repository.iterdir())


def test_a_model_of_somebody_else_is_never_replaced(model: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "models" / "m_detokenize"
    theirs.mkdir(parents=True)
    (theirs / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(RepositoryError, match="was not written by `hanbit deploy`"):
        deploy(model, "m", tmp_path / "models")
    assert model_names(tmp_path / "models") == ["m_detokenize"]
    assert (theirs / "config.pbtxt").read_text() == 'backend: "python"'


def test_a_disk_that_refuses_leaves_the_former_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    deploy(model, "m", repository)

    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "write_text", refuse)
    with pytest.raises(OSError, match="No space left"):
        deploy(model, "m", repository, chat_template="none")
    assert config_of(repository, "m_tokenize").parameters["chat_template"].string_value == "auto"
    assert all(not path.name.startswith(".") for path in repository.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "..", ".m", "m m", "-m", "한빛", "m" * 130])
def test_a_name_that_is_none_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="must be at most 128"):
        deploy(model, name, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_folders_that_are_no_model_or_adapter_are_refused(model: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is no model folder"):
        deploy(adapter, "m", tmp_path / "models")
    with pytest.raises(RepositoryError, match="is no adapter folder"):
        deploy(model, "m", tmp_path / "models", {"tuned": model})
    with pytest.raises(RepositoryError, match="two models would be called 'm_model'"):
        deploy(model, "m", tmp_path / "models", {"m": adapter})
