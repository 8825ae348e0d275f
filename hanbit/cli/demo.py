"""The whole journey on real input: train from scratch, adapt a real model, serve it, ask it through foreign clients."""

import os
import signal
import time
from typing import Annotated, Any

import typer


def command(
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the server and its page up.")] = False,
    http_port: Annotated[int, typer.Option(help="Of the server; another one if it is taken.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Likewise.")] = 8001,
) -> None:
    """The whole journey on real input, each command shown as one would type it.

    Takes about three minutes on 2 cores; what an earlier start has finished is not done again.
    """
    from hanbit.demo.alone import alone
    from hanbit.demo.journey import LOCK, STAGES, Journey, free_port
    from hanbit.demo.screen import Screen
    from hanbit.launch.parent import end_with_parent

    if "MAKELEVEL" in os.environ:  # a killed make leaves nothing running either
        end_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _interrupt)
    screen, began = Screen(STAGES), time.monotonic()
    with alone(LOCK, screen.say) as lock:
        journey = Journey(screen, lock)
        journey.train_from_scratch()
        journey.adapt_a_real_model()
        http, grpc = free_port(http_port), free_port(grpc_port)
        with journey.served(http, grpc) as server:
            journey.ask(http, grpc)
            journey.ask_the_adapter(http)
            journey.conclude(time.monotonic() - began)
            if keep_serving:
                screen.say(f"http://127.0.0.1:{http}/  (Ctrl-C)")
                server.wait()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
