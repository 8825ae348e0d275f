"""What a job makes of its options: torchrun's command line, the environment, and layouts that cannot be."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import ConfigError
from hanbit.launch.job import Job


def job(folder: Path, **options: Any) -> Job:
    return Job(("train", "demo"), **{"processes": 1, "log_folder": folder, **options})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"processes": 0}, "--processes 0"),
        ({"nodes": 2}, "needs --address"),
        ({"nodes": 2, "node_rank": 2, "address": "a:1"}, "from 0 to 1"),
        ({"max_restarts": -1}, "--max-restarts -1"),
    ],
)
def test_wrong_layouts_are_refused(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(tmp_path, **wrong)


@pytest.mark.parametrize("address", ["10.0.0.1", ":29500", "10.0.0.1:", "10.0.0.1:http"])
def test_address_without_host_and_port_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        job(tmp_path, nodes=2, address=address).command()


def test_nothing_to_launch_is_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hanbit launch --processes 4 train demo"):
        Job((), 1, tmp_path)


def test_several_nodes_meet_at_the_given_address(tmp_path: Path) -> None:
    command = job(tmp_path, processes=4, nodes=2, node_rank=1, address="10.0.0.1:29500").command()
    wanted = {"--nproc-per-node=4", "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=29500"}
    assert wanted <= set(command)
    assert command[-4:] == ["-m", "hanbit", "train", "demo"]


def test_one_node_stays_on_loopback_at_ports_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert "--master-addr=127.0.0.1" in job(tmp_path).command()
    assert job(tmp_path).settings()["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert "GLOO_SOCKET_IFNAME" not in job(tmp_path, nodes=2, address="10.0.0.1:1").settings()


def test_cores_are_shared_out_unless_the_user_has_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    assert job(tmp_path, processes=4).settings()["OMP_NUM_THREADS"] == "3"
    assert job(tmp_path, processes=16).settings()["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert job(tmp_path, processes=4).settings()["OMP_NUM_THREADS"] == "7"


def test_shell_line_is_the_command_with_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    made = job(tmp_path, nodes=2, address="10.0.0.1:29500")
    variable, *command = shlex.split(made.as_shell_line())
    assert variable == "OMP_NUM_THREADS=7"
    assert command == made.command()
