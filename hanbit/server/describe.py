"""What the server says of itself and of its models, in the field names of the v2 protocol, for every frontend."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

import hanbit
from hanbit.server.model import ServedModel
from hanbit.server.models import Catalogue

EXTENSIONS = (
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "generate",
)


def server_metadata() -> dict[str, Any]:
    return {"name": "hanbit", "version": hanbit.__version__, "extensions": list(EXTENSIONS)}


def config_as_json(model: ServedModel) -> dict[str, Any]:
    """The configuration with every field; 64-bit numbers as numbers, which protobuf's own JSON makes texts."""
    return _with_numbers(
        MessageToDict(model.config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
        model.config,
    )


def model_statistics(catalogue: Catalogue, name: str = "", version: str = "") -> dict[str, Any]:
    """Of one model, or of all that are served. Raises RequestError for one that is not."""
    models = [catalogue.find(name, version)] if name else catalogue.served()
    return {
        "model_stats": [model.statistics.as_json(model.name, model.version, model.is_decoupled) for model in models]
    }


def repository_index(catalogue: Catalogue, only_ready: bool) -> list[dict[str, str]]:
    return [
        {"name": line.name, "version": line.version, "state": line.state, "reason": line.reason}
        for line in catalogue.index()
        if line.state == "READY" or not only_ready
    ]


def _with_numbers(value: dict[str, Any], message: Message) -> dict[str, Any]:
    for field in message.DESCRIPTOR.fields:
        if field.name not in value:
            continue
        found = value[field.name]
        inner = getattr(message, field.name)
        if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64):
            value[field.name] = [int(one) for one in found] if isinstance(found, list) else int(found)
        elif isinstance(found, list) and found and isinstance(found[0], dict):
            value[field.name] = [_with_numbers(*pair) for pair in zip(found, inner, strict=True)]
        elif isinstance(found, dict) and isinstance(inner, Message):
            value[field.name] = _with_numbers(found, inner)
    return value
