"""`ModelConfig` of `triton_python_backend_utils`: what a model may say of itself in `auto_complete_config`."""

import json
from typing import Any


class ModelConfig:
    """`model_config`: JSON. What contradicts the file raises ValueError."""

    def __init__(self, model_config: str) -> None:
        self._model_config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        return self._model_config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        said = self._model_config.get("max_batch_size", 0)
        if said > max_batch_size:
            raise self._wrong(f"max_batch_size is {said} in the file, and {max_batch_size} in auto_complete_config")
        self._model_config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._model_config:
                raise self._wrong(f"the file has {other}, and auto_complete_config sets dynamic_batching")
        self._model_config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict: dict[str, bool]) -> None:
        unknown = set(transaction_policy_dict) - {"decoupled"}
        if unknown:
            raise self._wrong(f"model_transaction_policy has no {min(unknown)!r}, only 'decoupled'")
        policy = self._model_config.setdefault("model_transaction_policy", {})
        for name, value in transaction_policy_dict.items():
            if policy.get(name, value) != value:
                raise self._wrong(f"decoupled is {policy[name]} in the file, and {value} in auto_complete_config")
            policy[name] = value

    def add_input(self, input: dict[str, Any]) -> None:
        """Of `name`, `data_type`, `dims`, and `optional` if it is."""
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output: dict[str, Any]) -> None:
        self._add("output", output, ("name", "data_type", "dims"))

    def _add(self, kind: str, tensor: dict[str, Any], known: tuple[str, ...]) -> None:
        unknown, missing = set(tensor) - set(known), {"name", "data_type", "dims"} - set(tensor)
        if unknown or missing:
            what = f"has {min(unknown)!r}" if unknown else f"lacks {min(missing)!r}"
            raise self._wrong(f"{kind} {tensor.get('name', '')!r} of auto_complete_config {what}; known are {known}")
        tensors = self._model_config.setdefault(kind, [])
        for said in tensors:
            if said["name"] == tensor["name"]:
                self._check_same(kind, said, tensor)
                said.update(tensor)
                return
        tensors.append(dict(tensor))

    def _check_same(self, kind: str, said: dict[str, Any], tensor: dict[str, Any]) -> None:
        for name, unset in (("data_type", "TYPE_INVALID"), ("dims", []), ("optional", None)):
            value = said.get(name, unset)
            if value != unset and name in tensor and value != tensor[name] and not (name == "optional" and not value):
                raise self._wrong(
                    f"{kind} {said['name']!r}: {name} is {value} in the file, {tensor[name]} in auto_complete_config"
                )

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"model {self._model_config.get('name', '')!r}: {what}")
