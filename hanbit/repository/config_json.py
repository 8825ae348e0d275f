"""A configuration as JSON, as Triton writes it: every field; 64-bit numbers as numbers, which protobuf makes texts."""

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tritonclient.grpc.model_config_pb2 import ModelConfig


def config_as_json(config: ModelConfig) -> dict[str, Any]:
    return _with_numbers(
        MessageToDict(config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True), config
    )


def config_text_json(config: ModelConfig) -> str:
    return json.dumps(config_as_json(config), ensure_ascii=False)


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
