"""The configurations of a language model's three steps and of the ensemble over them.

Tensors have the names that users of Triton's language model backends know: `text_input`, `max_tokens`, `temperature`,
..., `stream` in, `text_output` out; `input_ids` and `output_ids` between the steps.
"""

from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelOutput

from hanbit.repository.config import ENSEMBLE


@dataclass(frozen=True)
class Field:
    """A tensor of a configuration; `dims` (-1,) is any number of elements."""

    name: str
    datatype: int
    dims: tuple[int, ...] = (1,)
    is_optional: bool = False


TEXT_INPUT = Field("text_input", DataType.TYPE_STRING)
TEXT_OUTPUT = Field("text_output", DataType.TYPE_STRING)
INPUT_IDS = Field("input_ids", DataType.TYPE_INT32, (-1,))
OUTPUT_IDS = Field("output_ids", DataType.TYPE_INT32, (-1,))
FINISH_REASON = Field("finish_reason", DataType.TYPE_STRING)
STOPS = (
    Field("stop", DataType.TYPE_STRING, (-1,), is_optional=True),
    Field("stop_words", DataType.TYPE_STRING, (-1,), is_optional=True),
)
MIN_TOKENS = Field("min_tokens", DataType.TYPE_INT32, is_optional=True)
SAMPLING = (
    Field("max_tokens", DataType.TYPE_INT32, is_optional=True),
    MIN_TOKENS,
    Field("temperature", DataType.TYPE_FP32, is_optional=True),
    Field("top_k", DataType.TYPE_INT32, is_optional=True),
    Field("top_p", DataType.TYPE_FP32, is_optional=True),
    Field("top_p_decay", DataType.TYPE_FP32, is_optional=True),
    Field("top_p_min", DataType.TYPE_FP32, is_optional=True),
    Field("min_p", DataType.TYPE_FP32, is_optional=True),
    Field("repetition_penalty", DataType.TYPE_FP32, is_optional=True),
    Field("seed", DataType.TYPE_UINT64, is_optional=True),
    Field("best_of", DataType.TYPE_INT32, is_optional=True),
    Field("num_beams", DataType.TYPE_INT32, is_optional=True),
    Field("length_penalty", DataType.TYPE_FP32, is_optional=True),
    Field("early_stopping", DataType.TYPE_BOOL, is_optional=True),
    Field("ignore_eos", DataType.TYPE_BOOL, is_optional=True),
)
BAD_WORDS = (
    Field("bad_words", DataType.TYPE_STRING, (-1,), is_optional=True),
    Field("bad_words_list", DataType.TYPE_INT32, (2, -1), is_optional=True),  # FasterTransformer's
)
TOP_P_RESET_IDS = Field("top_p_reset_ids", DataType.TYPE_INT32, (-1,), is_optional=True)
GUIDE = (  # TensorRT-LLM's
    Field("guided_decoding_guide_type", DataType.TYPE_STRING, is_optional=True),
    Field("guided_decoding_guide", DataType.TYPE_STRING, is_optional=True),
)
STREAM = Field("stream", DataType.TYPE_BOOL, is_optional=True)
ASKED = (*SAMPLING, *STOPS, *BAD_WORDS, TOP_P_RESET_IDS, *GUIDE, STREAM)  # what may be asked of an answer


def tokenize_config(name: str, folder: Path, chat_template: str) -> ModelConfig:
    parameters = {"model_folder": str(folder), "chat_template": chat_template}
    return config_of(name, "hanbit_tokenize", (TEXT_INPUT,), (INPUT_IDS,), parameters)


def model_config(name: str, folder: Path, adapter: Path | None) -> ModelConfig:
    """Decoupled: with `stream` it answers in pieces."""
    parameters = {"model_folder": str(folder)} | ({"adapter": str(adapter)} if adapter else {})
    config = config_of(name, "hanbit", (INPUT_IDS, *ASKED), (OUTPUT_IDS, FINISH_REASON), parameters)
    config.model_transaction_policy.decoupled = True
    return config


def detokenize_config(name: str, folder: Path) -> ModelConfig:
    return config_of(
        name, "hanbit_detokenize", (OUTPUT_IDS, MIN_TOKENS, *STOPS), (TEXT_OUTPUT,), {"model_folder": str(folder)}
    )


def ensemble_config(name: str, tokenize: str, model: str, detokenize: str) -> ModelConfig:
    config = config_of(name, "", (TEXT_INPUT, *ASKED), (TEXT_OUTPUT, FINISH_REASON), {})
    config.platform = ENSEMBLE
    config.model_transaction_policy.decoupled = True
    for step, inputs, outputs in (
        (tokenize, (TEXT_INPUT,), (INPUT_IDS,)),
        (model, (INPUT_IDS, *ASKED), (OUTPUT_IDS, FINISH_REASON)),
        (detokenize, (OUTPUT_IDS, MIN_TOKENS, *STOPS), (TEXT_OUTPUT,)),
    ):
        added = config.ensemble_scheduling.step.add(model_name=step, model_version=-1)
        added.input_map.update({field.name: field.name for field in inputs})
        added.output_map.update({field.name: field.name for field in outputs})
    return config


def config_of(
    name: str, backend: str, inputs: tuple[Field, ...], outputs: tuple[Field, ...], parameters: dict[str, str]
) -> ModelConfig:
    config = ModelConfig(name=name, backend=backend)
    config.input.extend(
        ModelInput(name=one.name, data_type=one.datatype, dims=one.dims, optional=one.is_optional) for one in inputs
    )
    config.output.extend(ModelOutput(name=one.name, data_type=one.datatype, dims=one.dims) for one in outputs)
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config
