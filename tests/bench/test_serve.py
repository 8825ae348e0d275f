"""What the server adds is the difference of the same round, not of the medians."""

import asyncio

from hanbit.bench.serve import Contestant, table


def contestant(name: str, seconds: list[float]) -> Contestant:
    return Contestant(name, lambda prompt: asyncio.sleep(0, 0.0), seconds)


def test_what_is_added_is_taken_round_by_round() -> None:
    engine = contestant("engine", [0.100, 0.200, 0.300])
    server = contestant("KServe v2", [0.103, 0.201, 0.310])
    rows = table([engine, server])
    assert rows[0] == {
        "name": "engine", "first_token_milliseconds": 200.0, "added_milliseconds": 0.0, "lowest": 0.0, "highest": 0.0
    }  # fmt: skip
    assert rows[1]["first_token_milliseconds"] == 201.0
    assert (rows[1]["lowest"], rows[1]["added_milliseconds"], rows[1]["highest"]) == (1.0, 3.0, 10.0)
