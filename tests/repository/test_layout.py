"""A repository on disk: which folders are models, which of their folders are versions, which versions are served."""

from pathlib import Path

import pytest

from hanbit.common.errors import RepositoryError
from hanbit.repository.layout import model_names, read_model


def make(repository: Path, name: str, versions: list[str], policy: str = "") -> None:
    for version in versions:
        (repository / name / version).mkdir(parents=True)
    (repository / name).mkdir(exist_ok=True)
    (repository / name / "config.pbtxt").write_text(f'backend: "x" {policy}')


def test_models_are_folders_with_a_name(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden.tmp", "not a name"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert model_names(tmp_path) == ["a", "b"]
    with pytest.raises(RepositoryError, match="is no model repository"):
        model_names(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", (10,)),
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { all {} }", (1, 2, 10)),
        ("version_policy { specific { versions: [ 2, 1 ] } }", (1, 2)),
    ],
)
def test_versions_are_whole_numbers_and_the_policy_chooses(
    policy: str, served: tuple[int, ...], tmp_path: Path
) -> None:
    make(tmp_path, "m", ["1", "2", "10", "0", "03", "x", "-1", "9" * 30], policy)
    assert read_model(tmp_path, "m").versions == served


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "m", ["1"], "version_policy { specific { versions: 7 } }")
    with pytest.raises(RepositoryError, match=r"asks for versions \[7\]; there are \[1\]"):
        read_model(tmp_path, "m")
    make(tmp_path, "none", ["latest"])
    with pytest.raises(RepositoryError, match="has no version"):
        read_model(tmp_path, "none")
    for name in ("nobody", "..", "../m", "m/1", ""):
        with pytest.raises(RepositoryError, match="has no model"):
            read_model(tmp_path, name)
