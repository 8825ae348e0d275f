"""OpenAI's client for JavaScript, from npm, gets what the one for Python gets."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.clients.conftest import Served

VERSION = "7"  # of the package; npm takes the newest of them
MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def found(clients: Path, smollm2: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("javascript")
    environment = {**os.environ, "PATH": f"{clients}{os.pathsep}{os.environ['PATH']}"}
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"openai@{VERSION}"]
    installed = subprocess.run(install, env=environment, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm cannot install openai@{VERSION} here: {installed.stderr[-300:]}")
    script = folder / "openai.mjs"
    script.write_text((Path(__file__).parent / "openai.mjs").read_text())
    command = ["node", str(script), smollm2.url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    value: dict[str, Any] = json.loads(ran.stdout)
    return value


@pytest.mark.slow
def test_it_gets_what_pythons_client_gets(found: dict[str, Any], smollm2: Served) -> None:
    with OpenAI(base_url=smollm2.url, api_key="none") as client:
        chat = client.chat.completions.create(model="smollm2", messages=MESSAGES, temperature=0, max_tokens=24)
        prompt = "Seoul is the capital of"
        completion = client.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=4)
    assert found["models"] == ["smollm2"]
    assert found["chat"] == found["streamed"] == chat.choices[0].message.content
    assert "Paris" in found["chat"]
    assert chat.usage is not None
    for usage in (found["usage"], found["streamed_usage"]):
        assert usage["total_tokens"] == chat.usage.total_tokens
    assert found["completion"] == completion.choices[0].text
    assert found["logprobs"] == 4


@pytest.mark.slow
def test_calls_forms_and_errors_arrive(found: dict[str, Any]) -> None:
    assert found["call"]["name"] == "get_weather"
    assert json.loads(found["call"]["arguments"])["city"] == "Paris"
    assert found["form"]["city"] in ("Paris", "Rome")
    assert found["error"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
