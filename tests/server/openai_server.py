"""A running server of OpenAI's routes and of the page over tiny random models, for as long as a block lasts."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from tests.engine.folders import write_folder

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_chat_folder(path: Path, name: str) -> Path:
    """A random model of tests/models/shapes.py that can chat."""
    write_folder(path, name)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@contextmanager
def serving(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """The server's address, without a slash at its end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = uvicorn.Config(Starlette(routes=list(routes)), log_level="error", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
