"""Hanbit's own server keeps to the protocol, as the suite has it: a process over the suite's models."""

from collections.abc import Iterator

import pytest

from hanbit.bench.conformance import own
from hanbit.bench.conformance.known import outdated, unknown
from hanbit.bench.conformance.repository import write_repository
from hanbit.bench.conformance.run import GROUPS, Row, run
from hanbit.bench.conformance.server import Server

SLOW = ("repository", "client", "large", "schedule")
"""Groups whose checks load models, wait, or ask by every client."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("conformance") / "models"
    write_repository(models)
    with own.serving(models) as addresses:
        yield Server(addresses.http, addresses.grpc)


def held(rows: list[Row]) -> None:
    assert [f"{one.id}: {one.seen}" for one in unknown("hanbit", rows)] == []
    assert outdated("hanbit", rows) == []
    assert [one.id for one in rows if one.outcome == "not offered"] == []


def test_the_wire_is_as_the_protocol_has_it(server: Server) -> None:
    rows = run(server, [f"{group.name}." for group in GROUPS if group.name not in SLOW])
    held(rows)
    assert sum(one.outcome == "pass" for one in rows) > 300


@pytest.mark.proof
def test_models_come_and_go_and_every_client_is_served(server: Server) -> None:
    rows = run(server, [f"{name}." for name in SLOW])
    held(rows)
    assert sum(one.outcome == "pass" for one in rows) > 100
