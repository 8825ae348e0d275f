"""What the server says of itself and of its models, in the field names of the v2 protocol, for every frontend."""

from typing import Any

import hanbit
from hanbit.server.models import Catalogue


def server_metadata(catalogue: Catalogue) -> dict[str, Any]:
    return {"name": "hanbit", "version": hanbit.__version__, "extensions": catalogue.extensions.names()}


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
