"""The catalogue: what is loaded when, what stays when something fails, who may change it."""

import asyncio
import shutil
from pathlib import Path

import pytest
import tritonclient.http as client
from tritonclient.utils import InferenceServerException

from hanbit.repository.deploy import deploy
from hanbit.server.engines import Engines
from hanbit.server.errors import RequestError
from hanbit.server.models import Catalogue
from hanbit.server.options import EngineOptions
from hanbit.server.request import InferRequest
from hanbit.server.tensors import tensor
from tests.server.asking import inputs, text_of
from tests.server.served import serving

ENGINES = EngineOptions(device="cpu", max_sequences=2)


@pytest.fixture
def own(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> Path:
    """A repository of the test's own."""
    deploy(model_folder, "small", tmp_path / "models", {"tuned": adapter_folder})
    return tmp_path / "models"


def states(catalogue: Catalogue) -> dict[str, str]:
    return {line.name: line.state for line in catalogue.index()}


def test_one_engine_serves_a_model_and_its_adapters_until_the_last_is_gone(own: Path) -> None:
    async def scenario() -> None:
        catalogue = Catalogue([own], Engines(ENGINES))
        await catalogue.load_all()
        models = catalogue.language_models()
        assert set(models) == {"small", "tuned"}
        service = models["small"].service
        assert models["tuned"].service is service
        assert models["small"].adapter is None
        assert models["tuned"].adapter is not None
        await catalogue.unload("small_model")
        assert set(catalogue.language_models()) == {"tuned"}
        assert not catalogue.is_ready("small")
        assert not service.is_closed
        await catalogue.unload("tuned_model")
        assert service.is_closed
        await catalogue.close()

    asyncio.run(scenario())


def test_an_engine_in_no_ensemble_goes_by_its_own_name(own: Path) -> None:
    for name in ("small", "tuned"):
        shutil.rmtree(own / name)

    async def scenario() -> set[str]:
        catalogue = Catalogue([own], Engines(ENGINES))
        await catalogue.load_all()
        names = set(catalogue.language_models())
        await catalogue.close()
        return names

    assert asyncio.run(scenario()) == {"small_model", "tuned_model"}


def test_a_model_that_fails_keeps_the_others_and_says_why(own: Path) -> None:
    (own / "broken" / "1").mkdir(parents=True)
    (own / "broken" / "config.pbtxt").write_text('backend: "hanbit"\nparameters { key: "model_folder" }\n')
    (own / "unknown" / "1").mkdir(parents=True)
    (own / "unknown" / "config.pbtxt").write_text('backend: "os.system"\n')

    async def scenario() -> None:
        catalogue = Catalogue([own], Engines(ENGINES))
        assert not catalogue.is_server_ready
        await catalogue.load_all()
        assert states(catalogue) | {"small": "READY", "broken": "UNAVAILABLE"} == states(catalogue)
        assert not catalogue.is_server_ready
        reasons = {line.name: line.reason for line in catalogue.index()}
        assert "needs the parameter 'model_folder'" in reasons["broken"]
        assert "there is no backend 'os.system'; there are hanbit," in reasons["unknown"]
        with pytest.raises(RequestError, match="'broken' is not ready: model 'broken'") as raised:
            catalogue.find("broken")
        assert raised.value.kind == "unavailable"
        await catalogue.close()

    asyncio.run(scenario())


def test_a_failed_reload_keeps_what_is_served(own: Path) -> None:
    async def scenario() -> None:
        catalogue = Catalogue([own], Engines(ENGINES))
        await catalogue.load_all()
        config = own / "small_tokenize" / "config.pbtxt"
        config.write_text(config.read_text().replace("hanbit_tokenize", "nothing"))
        with pytest.raises(RequestError, match="no backend 'nothing'"):
            await catalogue.load("small_tokenize")
        assert states(catalogue)["small_tokenize"] == "READY"
        assert catalogue.is_ready("small")
        await catalogue.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("member", "words"),
    [("loop", "ensemble 'loop' is a part of itself"), ("nobody", "needs 'nobody', which is not there")],
)
def test_an_ensemble_of_what_cannot_be_is_refused(member: str, words: str, own: Path) -> None:
    (own / "loop" / "1").mkdir(parents=True)
    (own / "loop" / "config.pbtxt").write_text(f"""
        platform: "ensemble"
        input {{ name: "text_input" data_type: TYPE_STRING dims: 1 }}
        output {{ name: "text_output" data_type: TYPE_STRING dims: 1 }}
        ensemble_scheduling {{ step {{
            model_name: "{member}" model_version: -1
            input_map {{ key: "text_input" value: "text_input" }}
            output_map {{ key: "text_output" value: "text_output" }}
        }} }}
    """)

    async def scenario() -> None:
        with pytest.raises(RequestError, match=words):
            await Catalogue([own], Engines(ENGINES)).load("loop")

    asyncio.run(scenario())


def test_all_versions_that_the_policy_names_are_served(own: Path) -> None:
    for name in ("1", "3", "007", "x"):
        (own / "small_tokenize" / name).mkdir(exist_ok=True)
    config = own / "small_tokenize" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all {} }\n")

    async def scenario() -> None:
        catalogue = Catalogue([own], Engines(ENGINES))
        await catalogue.load("small_tokenize")
        assert catalogue.find("small_tokenize").version == "3"
        assert catalogue.find("small_tokenize", "1").metadata()["versions"] == ["1", "3"]
        with pytest.raises(RequestError, match="no version '7'"):
            catalogue.find("small_tokenize", "7")
        await catalogue.close()

    asyncio.run(scenario())


def test_clients_load_and_unload_where_they_may(own: Path) -> None:
    with serving(own, clients_change_models=True, load=(), engines=ENGINES) as served:
        triton = client.InferenceServerClient(served.http)
        assert triton.is_server_ready()
        assert not triton.is_model_ready("small")
        with pytest.raises(InferenceServerException, match="not loaded"):
            triton.infer("small", inputs(client, max_tokens=2))
        triton.load_model("small")
        assert triton.is_model_ready("small")
        assert text_of(triton.infer("small", inputs(client, max_tokens=2)))
        index = {line["name"]: line["state"] for line in triton.get_model_repository_index()}
        assert index["small_model"] == "READY"
        assert index["tuned"] == ""
        triton.unload_model("small", unload_dependents=True)
        assert not triton.is_model_ready("small_model")
        assert triton.is_server_ready()
        for name in ("nobody", "../models/small", "%2e%2e"):
            with pytest.raises(InferenceServerException, match="404"):
                triton.load_model(name)
        triton.unload_model("small")  # it is so already
        with pytest.raises(InferenceServerException, match="no configuration of a model"):
            triton.load_model("small", config='{"nothing": 1}')


def test_loading_and_unloading_under_questions_gives_no_wrong_answer(own: Path) -> None:
    """Every answer is whole and right, or says that the model is away."""

    async def ask(catalogue: Catalogue) -> str:
        values = [tensor("text_input", "BYTES", ["The"]), tensor("max_tokens", "INT32", [8])]
        values.append(tensor("temperature", "FP32", [0]))
        try:
            request = InferRequest("small", {one.name: one for one in values})
            found = [one async for one in catalogue.find("small").infer(request)]
            return found[0].outputs["text_output"].data[0].decode()
        except RequestError as problem:
            return problem.kind

    async def scenario() -> set[str]:
        catalogue = Catalogue([own], Engines(ENGINES))
        await catalogue.load("small")
        right = await ask(catalogue)
        assert right != "unavailable"

        async def change() -> None:
            for _ in range(5):
                await catalogue.unload("small", with_members=True)
                await catalogue.load("small")

        changing = asyncio.create_task(change())
        found = set()
        while not changing.done():
            found |= set(await asyncio.gather(*(ask(catalogue) for _ in range(3))))
            await asyncio.sleep(0.01)
        await changing
        assert await ask(catalogue) == right
        await catalogue.close()
        return found - {right, "unavailable"}

    assert asyncio.run(scenario()) == set()
