"""Models of the Hugging Face hub by name (`org/name`), through its own client and its cache on this machine.

Only data are fetched: safetensors, JSON and chat templates, never pickles or code. HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT
and the client's tokens mean what they mean everywhere.
"""

import re
from pathlib import Path

from hanbit.common.errors import ModelError

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_PATTERNS = ["*.safetensors", "*.json", "*.jinja"]


def is_hub_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(".gguf")


def fetch(name: str) -> Path:
    """The folder with the files of `name`, from the cache where it is whole. Raises ModelError where the hub does not
    have it or cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except LocalEntryNotFoundError as problem:
        raise ModelError(
            f"{name} is no file or folder here, not in the hub's cache, and the hub cannot be reached "
            f"({_reason(problem)}). Check the network, HF_HUB_OFFLINE and the name, or give a folder"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as problem:
        raise ModelError(f"{name} is no file or folder here, and the hub says: {_reason(problem)}") from None


def _reason(problem: BaseException) -> str:
    cause = problem.__cause__ or problem
    return str(cause).strip().split("\n")[0][:200] or type(cause).__name__
