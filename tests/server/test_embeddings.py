"""Embeddings through OpenAI's own client and NVIDIA's, over a server that also has a model that speaks."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.grpc
import tritonclient.http
from openai import OpenAI

from hanbit import Embedder
from hanbit.common.errors import RepositoryError
from hanbit.repository.deploy import deploy
from tests.engine.bert_folders import TEXTS, write_bert_folder
from tests.server.asking import Http
from tests.server.served import Served, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert_folder(tmp_path_factory.mktemp("bert"), normalize=True)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(folder, device="cpu")


@pytest.fixture(scope="module")
def both(folder: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("both")
    deploy(folder, "mini", repository)
    deploy(model_folder, "small", repository)
    with serving(repository) as found:
        yield found


@pytest.fixture(scope="module")
def client(both: Served) -> OpenAI:
    return OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0)


def test_openai_client_gets_the_vectors_of_a_text_texts_and_token_ids(client: OpenAI, embedder: Embedder) -> None:
    tokens = [embedder.encode(text) for text in TEXTS]
    wanted = embedder.embed(TEXTS).numpy()
    given: list[Any] = [TEXTS, TEXTS[0], tokens, tokens[0]]
    for asked in given:
        count = 5 if len(asked) == 5 and isinstance(asked, list) and not isinstance(asked[0], int) else 1
        made = client.embeddings.create(model="mini", input=asked)  # the client asks for base64
        assert [one.index for one in made.data] == list(range(count))
        assert made.model == "mini"
        assert made.usage.prompt_tokens == made.usage.total_tokens == sum(map(len, tokens[:count]))
        found = np.array([one.embedding for one in made.data], np.float32)
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_float_and_base64_say_the_same(client: OpenAI, both: Served) -> None:
    told = client.embeddings.create(model="mini", input="a cat", encoding_format="float").data[0].embedding
    raw = Http(both.http).ask("/v1/embeddings", {"model": "mini", "input": "a cat", "encoding_format": "base64"})
    packed = raw.json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == told
    assert raw.json()["object"] == "list"


def test_normalizing_and_cutting_are_as_asked(client: OpenAI, embedder: Embedder) -> None:
    asked = {"normalize": False, "truncate_prompt_tokens": 9}
    made = client.embeddings.create(model="mini", input=TEXTS, extra_body=asked, dimensions=48)
    wanted = embedder.embed(TEXTS, normalize=False, truncate_prompt_tokens=9).numpy()
    np.testing.assert_allclose([one.embedding for one in made.data], wanted, atol=1e-5)
    long = "word " * 200
    cut = client.embeddings.create(model="mini", input=long, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == embedder.context


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"input": "word " * 200}, "input", "the text has 802 tokens, and the model reads from 1 to 64"),
        ({"input": ["a", "word " * 200]}, "input", "text 1 has 802 tokens"),
        ({"input": []}, "input", "must be a text"),
        ({"input": [1, 400]}, "input", "outside the model's vocabulary of 57"),
        ({"input": [[]]}, "input", "the text has 0 tokens"),
        ({"input": ["a"] * 2049}, "input", "2049 texts are more than 2048"),
        ({"input": "a", "dimensions": 20}, "dimensions", "has 48 numbers, and it was not trained for fewer"),
        ({"input": "a", "extra_body": {"truncate_prompt_tokens": 65}}, "truncate_prompt_tokens", "must be from 1 to"),
        ({"input": "a", "extra_body": {"temperature": 1}}, "temperature", "unknown field 'temperature'"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "encoding_format"),
        ({"input": "a", "model": "small"}, "model", "generates text and makes no embeddings"),
    ],
)
def test_wrong_requests_are_refused_in_openais_shape(
    asked: dict[str, Any], param: str, words: str, client: OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.embeddings.create(**{"model": "mini", **asked})
    assert caught.value.param == param


def test_names_are_told_apart(client: OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"mini", "small"}
    assert client.models.retrieve("mini").to_dict()["max_model_len"] == 64
    with pytest.raises(openai.NotFoundError, match="does not exist: there is mini"):
        client.embeddings.create(model="other", input="a")
    with pytest.raises(openai.BadRequestError, match="makes embeddings: ask /v1/embeddings"):
        client.completions.create(model="mini", prompt="a")


def text_input(kind: Any, texts: list[str]) -> list[Any]:
    tensor = kind.InferInput("text_input", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
    return [tensor]


@pytest.mark.parametrize("kind", [tritonclient.http, tritonclient.grpc], ids=["http", "grpc"])
def test_tritons_clients_send_texts_and_get_rows(kind: Any, both: Served, embedder: Embedder) -> None:
    address = both.grpc if "grpc" in kind.__name__ else both.http
    with kind.InferenceServerClient(address) as triton:
        found = triton.infer("mini", text_input(kind, TEXTS)).as_numpy("embedding")
        plain = triton.infer("mini", text_input(kind, TEXTS[:1]), parameters={"normalize": False})
        with pytest.raises(Exception, match="truncate_prompt_tokens='x' must be a whole number"):
            triton.infer("mini", text_input(kind, ["a"]), parameters={"truncate_prompt_tokens": "x"})
        with pytest.raises(Exception, match="unknown parameter 'top_k'"):
            triton.infer("mini", text_input(kind, ["a"]), parameters={"top_k": 1})
        with pytest.raises(Exception, match="text_input has no texts"):
            triton.infer("mini", text_input(kind, []))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, embedder.embed(TEXTS).numpy(), atol=1e-5)
    wanted = embedder.embed(TEXTS[:1], normalize=False).numpy()
    np.testing.assert_allclose(plain.as_numpy("embedding"), wanted, atol=1e-5)


def test_metadata_statistics_and_generate_know_it(both: Served, embedder: Embedder) -> None:
    with tritonclient.http.InferenceServerClient(both.http) as triton:
        metadata = triton.get_model_metadata("mini")
        before = triton.get_inference_statistics("mini")["model_stats"][0]["inference_count"]
        OpenAI(base_url=f"{both.url}/v1", api_key="none").embeddings.create(model="mini", input="a")
        after = triton.get_inference_statistics("mini")["model_stats"][0]["inference_count"]
    assert metadata["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 48]}]
    assert after == before + 1
    reply = Http(both.http).ask("/v2/models/mini/generate", {"text_input": "a cat"})
    np.testing.assert_allclose(reply.json()["embedding"], embedder.embed(["a cat"])[0], atol=1e-5)
    assert "mini" in both.ready_line


def test_tokens_and_metrics_are_told(both: Served, embedder: Embedder) -> None:
    http, asked = Http(both.http), {"model": "mini", "prompt": "a cat"}
    told = http.ask("/tokenize", asked).json()
    assert told == {"tokens": embedder.encode("a cat"), "count": 6, "max_model_len": 64}
    text = http.ask("/detokenize", {"model": "mini", "tokens": told["tokens"]}).json()
    assert text["prompt"] == embedder.tokenizer.decode(told["tokens"])
    assert http.ask("/tokenize", {"model": "mini", "messages": [{"role": "user", "content": "a"}]}).status == 400

    def tokens() -> float:
        lines = http.ask("/metrics", method="GET").content.decode().splitlines()
        found = {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if not line.startswith("#")}
        assert found['vllm:num_requests_running{model_name="mini"}'] == 0
        assert 'vllm:kv_cache_usage_perc{model_name="small"}' in found
        assert 'vllm:kv_cache_usage_perc{model_name="mini"}' not in found
        return found['vllm:prompt_tokens_total{model_name="mini"}']

    before = tokens()
    http.ask("/v1/embeddings", {"model": "mini", "input": ["a cat", "a"]})
    assert tokens() == before + 6 + 3


def test_adapters_are_not_for_embeddings(folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"makes embeddings, which adapters are not for\. Leave 'tuned' out"):
        deploy(folder, "mini", tmp_path / "repository", {"tuned": adapter_folder})
    assert not (tmp_path / "repository").exists()
