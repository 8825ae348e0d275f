"""Models of the Hugging Face hub by name (`org/name`, `org/name@revision`), through its own client and its cache.

Only data are fetched: safetensors, JSON and chat templates, never pickles or code. HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT
and the client's tokens mean what they mean everywhere.
"""

import re
from pathlib import Path

from hanbit.common.errors import ModelError
from hanbit.common.spelling import as_on_disk

_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_PATTERNS = ["*.safetensors", "*.json", "*.jinja"]


def is_hub_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and ".." not in name and not name.endswith(".gguf")


def folder_of(model: Path | str) -> Path:
    """A path that exists as it is; else the folder of the hub's model, if the words may be the name of one."""
    path = as_on_disk(Path(model))
    return path if path.exists() or not is_hub_name(str(model)) else fetch(str(model))


def fetch(name: str) -> Path:
    """The folder with the files of `name`, from the cache where it is whole. Raises ModelError where the hub does not
    have it or cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=_PATTERNS))
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
