"""LoRA by name: logits and greedy tokens of peft on transformers; rows of a batch do not disturb each other."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.llm import LLM
from hanbit.engine.sequence import Sequence
from tests.engine.conftest import Folder
from tests.engine.feeding import Rows
from tests.engine.folders import theirs_of
from tests.engine.test_llm import GREEDY, prompts_of

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_adapter(model: Path, folder: Path, seed: int, targets: list[str], **settings: object) -> None:
    """As peft writes it, both halves random: a fresh B is zeros."""
    torch.manual_seed(seed)
    config = LoraConfig(target_modules=targets, r=4, lora_alpha=24, task_type="CAUSAL_LM", **settings)  # type: ignore[arg-type]
    adapted = get_peft_model(theirs_of(model), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(folder))


def peft_of(model: Path, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(theirs_of(model), str(folder)).eval()


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("adapters")
    write_adapter(folder, made / "all", 1, ALL)
    write_adapter(folder, made / "few", 2, ["q_proj", "v_proj", "up_proj"])
    return {"all": made / "all", "few": made / "few"}


@pytest.fixture(scope="module")
def adapted(folder: Path, adapters: dict[str, Path]) -> LLM:
    llm = LLM(folder, device="cpu")
    for name, path in adapters.items():
        llm.add_adapter(name, path)
    return llm


@pytest.mark.parametrize("name", ["all", "few"])
def test_logits_and_greedy_tokens_are_those_of_peft(
    name: str, folder: Path, adapters: dict[str, Path], adapted: LLM
) -> None:
    theirs, (prompt,) = peft_of(folder, adapters[name]), prompts_of(21)
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        wanted = theirs(tokens).logits[0, -1]
        answer = theirs.generate(input_ids=tokens, do_sample=False, max_new_tokens=12)[0, 21:].tolist()
    sequence = adapted.sequence(prompt, adapter=name)
    found = Rows(adapted.model, 1, 64).prefill(0, prompt, 0, 21, sequence.adapter)
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    output = adapted.generate([prompt], GREEDY, adapter=name)[0]
    assert list(output.token_ids) == answer
    assert output.token_ids != adapted.generate([prompt], GREEDY)[0].token_ids


def test_gpt2_adapts_its_joined_projection(folder_of: Folder, tmp_path: Path) -> None:
    folder, (prompt,) = folder_of("gpt2"), prompts_of(9)
    write_adapter(folder, tmp_path / "lora", 3, ["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    llm = LLM(folder, device="cpu")
    llm.add_adapter("lora", tmp_path / "lora")
    with torch.no_grad():
        wanted = peft_of(folder, tmp_path / "lora")(torch.tensor([prompt])).logits[0, -1]
    found = Rows(llm.model, 1, 64).prefill(0, prompt, 0, 9, llm.sequence(prompt, adapter="lora").adapter)
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_rows_with_different_adapters_and_none_have_the_logits_of_each_alone(adapted: LLM) -> None:
    prompts, names = prompts_of(5, 17, 3, 11, 8), ["all", None, "few", "all", None]
    sequences = [adapted.sequence(prompt, adapter=name) for prompt, name in zip(prompts, names, strict=True)]
    together = logits_of(adapted, sequences)
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(together[row], logits_of(adapted, [sequence])[0], rtol=0, atol=1e-4)


def logits_of(llm: LLM, sequences: list[Sequence]) -> torch.Tensor:
    """After the prompts and one more token."""
    runner = Rows(llm.model, len(sequences), 64)
    for row, sequence in enumerate(sequences):
        runner.prefill(row, list(sequence.prompt), 0, len(sequence.prompt), sequence.adapter)
    places = [len(sequence.prompt) for sequence in sequences]
    return runner.decode([7] * len(sequences), places, [sequence.adapter for sequence in sequences])


def test_answers_with_an_adapter_leave_the_model_as_it_was(llm: LLM, adapted: LLM) -> None:
    prompts = prompts_of(5, 12)
    adapted.generate(prompts, GREEDY, adapter="all")
    assert adapted.generate(prompts, GREEDY) == llm.generate(prompts, GREEDY)
    assert list(adapted.stream(prompts[0], GREEDY, adapter="few")) != list(adapted.stream(prompts[0], GREEDY))


def test_an_adapter_that_is_not_there_is_refused_by_name(llm: LLM, adapted: LLM) -> None:
    assert adapted.adapters == ("all", "few")
    with pytest.raises(GenerationError, match=r"adapter='polite' is not here\. There is: all, few"):
        adapted.generate(["The"], adapter="polite")
    with pytest.raises(GenerationError, match="There is: none"):
        llm.stream("The", adapter="polite")


def test_an_adapter_of_another_model_is_refused(folder_of: Folder, adapters: dict[str, Path]) -> None:
    llm = LLM(folder_of("qwen3"), device="cpu")
    with pytest.raises(ModelError, match="model and rank ask for"):
        llm.add_adapter("all", adapters["all"])
    assert llm.adapters == ()


def test_bfloat16_is_adapted_too(folder: Path, adapters: dict[str, Path]) -> None:
    llm = LLM(folder, dtype="bfloat16", device="cpu")
    llm.add_adapter("all", adapters["all"])
    plain, changed = (llm.generate(["The"], GREEDY, adapter=name)[0] for name in (None, "all"))
    assert plain.token_ids != changed.token_ids
