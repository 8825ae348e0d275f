"""Serve models: KServe v2 by HTTP and gRPC, OpenAI's chat, completions and embeddings, a page, from one process."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hanbit.cli.guessing import GUESSED_BY, guessing


def command(
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Model folder, run folder (runs/demo), a .gguf file, package:NAME, or a hub's org/name[@revision]."
        ),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER, or NAME=FILE.gguf; may be given again.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", "--lora-modules", help="NAME=FOLDER of a LoRA adapter; may be given again."),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What FOLDER is called.", show_default="the folder's name")
    ] = None,
    model_repository: Annotated[
        list[Path] | None, typer.Option(help="Folder of models as Triton has it; may be given again.")
    ] = None,
    http_port: Annotated[
        int, typer.Option("--http-port", "--port", help="Of KServe v2, OpenAI and the page; 0: a free one.")
    ] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Of KServe v2 over gRPC; 0: a free one.")] = 8001,
    metrics_port: Annotated[
        int | None, typer.Option(help="Of the metrics alone; 0: a free one.", show_default="8002, if nobody has it")
    ] = None,
    allow_metrics: Annotated[bool, typer.Option(help="Have that port; /metrics is on the HTTP port anyway.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    api_key: Annotated[
        str | None, typer.Option(help="What clients must send.", envvar="HANBIT_API_KEY", show_envvar=True)
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="File of keys with roles: lines NAME infer|metrics|admin SHA256.")
    ] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate chain, PEM: TLS for HTTP and gRPC.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
    ssl_ca_certs: Annotated[
        Path | None, typer.Option(help="Who signs clients' certificates, PEM; clients without one are turned away.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    access_log: Annotated[
        str | None, typer.Option(help="File that gets a line of JSON for each request; - is standard error.")
    ] = None,
    exit_timeout_secs: Annotated[
        float, typer.Option(help="When told to end, how long answers being made may take.")
    ] = 30.0,
    model_control_mode: Annotated[
        str,
        typer.Option(
            help="none: all models, for good; explicit: clients load and unload; poll: the folder is watched."
        ),
    ] = "none",
    repository_poll_secs: Annotated[float, typer.Option(help="With poll: how often.")] = 15.0,
    model_load_thread_count: Annotated[int, typer.Option(help="Models that are loaded at once.")] = 4,
    cache_config: Annotated[
        list[str] | None,
        typer.Option(metavar="local,size=BYTES", help="Keep answers of models that have a response_cache."),
    ] = None,
    load_model: Annotated[
        list[str] | None, typer.Option(help="With explicit: load this at the start; * is all.")
    ] = None,
    disable_auto_complete_config: Annotated[
        bool, typer.Option("--disable-auto-complete-config", help="Every config.pbtxt must say all of its model.")
    ] = False,
    allow_client_shm: Annotated[
        str, typer.Option(metavar="true|false", help="Clients may register memory of this machine.")
    ] = "false",
    allow_client_files: Annotated[
        str, typer.Option(metavar="true|false", help="A client's load may bring files, programs too.")
    ] = "false",
    trace_config: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING", help="level=L, rate=N, count=N; triton,file=PATH, triton,log-frequency=N."),
    ] = None,
    log_verbose: Annotated[int, typer.Option(help="From 1 on also lines for those who look for a fault.")] = 0,
    log_info: Annotated[str, typer.Option(metavar="true|false", help="Lines of what goes on.")] = "true",
    log_warning: Annotated[str, typer.Option(metavar="true|false", help="Lines of what looks wrong.")] = "true",
    log_error: Annotated[str, typer.Option(metavar="true|false", help="Lines of what went wrong.")] = "true",
    log_format: Annotated[str, typer.Option(help="default, or ISO8601.")] = "default",
    log_file: Annotated[Path | None, typer.Option(help="Where lines go.", show_default="standard error")] = None,
    http_restricted_api: Annotated[
        list[str] | None, typer.Option(metavar="API,API:HEADER=VALUE", help="Parts that want a header.")
    ] = None,
    grpc_restricted_protocol: Annotated[
        list[str] | None, typer.Option(metavar="API,API:HEADER=VALUE", help="The same of gRPC.")
    ] = None,
    http_max_input_size: Annotated[int, typer.Option(help="Bytes of a body or a message, at most.")] = 64 * 2**20,
    exit_on_error: Annotated[bool, typer.Option(help="End if a model cannot be loaded.")] = True,
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens of a prompt and its answer, at most.", show_default="the model's context")
    ] = None,
    max_sequences: Annotated[
        int, typer.Option("--max-sequences", "--max-num-seqs", help="Prompts answered at the same time, per engine.")
    ] = 8,
    max_waiting: Annotated[int, typer.Option(help="Prompts that may wait; more are refused.")] = 256,
    kv_cache_gb: Annotated[
        float | None,
        typer.Option(help="Gigabytes of the key-value cache, per engine.", show_default="what the contexts take, to 4"),
    ] = None,
    kv_cache_dtype: Annotated[
        str, typer.Option(help="auto: as the model computes; int8: a quarter of float32's memory, rounded.")
    ] = "auto",
    num_blocks: Annotated[int | None, typer.Option(help="Its size in blocks, instead.")] = None,
    block_size: Annotated[int, typer.Option(help="Tokens of a block.")] = 16,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Tokens fed in a step, at most.")] = 1024,
    enable_prefix_caching: Annotated[bool, typer.Option(help="Prompts share what they begin with.")] = True,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: by the device.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda; auto: cuda where there is one.")] = "auto",
    quantization: Annotated[
        str, typer.Option(help="blocks: compute with the quantised blocks a folder keeps; none; auto: if there are.")
    ] = "auto",
    max_sessions: Annotated[int, typer.Option(help="Sessions that may be open at a time, per engine.")] = 64,
    session_timeout_seconds: Annotated[
        float, typer.Option(help="After so long without a turn a session is over.")
    ] = 600.0,
    speculation: Annotated[str, typer.Option(help=f"{GUESSED_BY}.")] = "none",
    num_speculative_tokens: Annotated[int, typer.Option(help="Guessed at a time, at most.")] = 8,
    prompt_lookup_max: Annotated[int, typer.Option(help="Newest tokens that are looked for, at most.")] = 4,
    prompt_lookup_min: Annotated[int, typer.Option(help="And at least.")] = 2,
    speculative_disable_by_batch_size: Annotated[
        int | None, typer.Option(help="Guess nothing while so many answers grow together.", show_default="never")
    ] = None,
    draft_model: Annotated[
        str | None,
        typer.Option(help="Smaller model of the same tokens that guesses: a folder, a file, a hub's name."),
    ] = None,
) -> None:
    """Serve models: KServe v2 by HTTP and gRPC, OpenAI's chat, completions and embeddings, a page, from one process."""
    from hanbit.common.errors import ConfigError
    from hanbit.server.extensions.log_settings import LogOptions
    from hanbit.server.extensions.trace_settings import parse_trace_config
    from hanbit.server.names import served_name
    from hanbit.server.options import EngineOptions, ServeOptions
    from hanbit.server.response_cache import cache_of
    from hanbit.server.restrictions import parse_restrictions
    from hanbit.server.tls import Tls

    models = pairs("--model", model)
    if folder is not None:
        name = served_model_name or served_name(Path(folder))
        if name in models:
            raise ConfigError(f"two models would be called {name!r}: name FOLDER with --served-model-name")
        models = {name: Path(folder), **models}
    elif served_model_name is not None:
        raise ConfigError("--served-model-name names FOLDER, and there is none. With --model write NAME=FOLDER")
    if model_control_mode not in ("none", "explicit", "poll"):
        raise ConfigError(f"--model-control-mode {model_control_mode!r} must be none, explicit or poll")
    if load_model and model_control_mode != "explicit":
        raise ConfigError("--load-model goes with --model-control-mode explicit; without it all models are loaded")
    guessed_by = guessing(
        speculation,
        num_speculative_tokens,
        prompt_lookup_max,
        prompt_lookup_min,
        draft_model,
        speculative_disable_by_batch_size,
    )
    options = ServeOptions(
        models=models,
        adapters=pairs("--adapter", adapter),
        repositories=tuple(model_repository or ()),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        has_metrics_port=allow_metrics,
        exit_timeout_seconds=exit_timeout_secs,
        load=_chosen(load_model, model_control_mode),
        clients_change_models=model_control_mode == "explicit",
        poll_seconds=repository_poll_secs if model_control_mode == "poll" else None,
        load_threads=model_load_thread_count,
        cache_bytes=cache_of(cache_config),
        completes_configs=not disable_auto_complete_config,
        fail_if_a_model_fails=exit_on_error,
        api_key=api_key,
        api_keys=api_keys,
        insecure=insecure,
        access_log=access_log,
        tls=Tls(ssl_certfile, ssl_keyfile, ssl_ca_certs),
        client_shared_memory=_switch("--allow-client-shm", allow_client_shm),
        client_files=_switch("--allow-client-files", allow_client_files),
        trace=parse_trace_config(trace_config or []),
        log=LogOptions(
            _switch("--log-info", log_info),
            _switch("--log-warning", log_warning),
            _switch("--log-error", log_error),
            log_verbose,
            log_format,
            log_file,
        ),
        max_input_bytes=http_max_input_size,
        http_restrictions=parse_restrictions("--http-restricted-api", http_restricted_api or []),
        grpc_restrictions=parse_restrictions("--grpc-restricted-protocol", grpc_restricted_protocol or []),
        engines=EngineOptions(
            dtype,
            device,
            max_model_len,
            max_sequences,
            max_waiting,
            quantization=quantization,
            block_size=block_size,
            num_blocks=num_blocks,
            kv_cache_gb=kv_cache_gb,
            kv_cache_dtype=kv_cache_dtype,
            max_num_batched_tokens=max_num_batched_tokens,
            enable_prefix_caching=enable_prefix_caching,
            speculation=guessed_by,
            max_sessions=max_sessions,
            session_timeout_seconds=session_timeout_seconds,
        ),
    )
    options.check()

    from hanbit.cli.convert import model_folder
    from hanbit.server.run import run  # torch: not before it is known that there is something to do

    folders = {name: Path(model_folder(str(path))) for name, path in models.items()}
    engines = options.engines
    if (draft := engines.speculation.draft_model) is not None:
        found = replace(engines.speculation, draft_model=model_folder(str(draft)))
        engines = replace(engines, speculation=found)
    run(replace(options, models=folders, engines=engines), typer.echo)


def pairs(flag: str, values: list[str] | None) -> dict[str, Path]:
    """NAME=FOLDER, each name once. Raises ConfigError."""
    from hanbit.common.errors import ConfigError

    found: dict[str, Path] = {}
    for value in values or ():
        name, separator, folder = value.partition("=")
        if not name or not separator or not folder:
            raise ConfigError(f"{flag} {value!r} must be NAME=FOLDER, as in {flag} small=runs/demo")
        if name in found:
            raise ConfigError(f"{flag} names {name!r} twice")
        found[name] = Path(folder)
    return found


def _switch(flag: str, value: str) -> bool:
    """As Triton takes them: true and false, 1 and 0. Raises ConfigError."""
    from hanbit.common.errors import ConfigError

    known = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in known:
        raise ConfigError(f"{flag} {value!r:.40} must be true or false")
    return known[value.lower()]


def _chosen(load_model: list[str] | None, mode: str) -> tuple[str, ...] | None:
    """Which models to load at the start; None is all of a server whose models clients do not change."""
    if mode != "explicit":
        return None
    return tuple(load_model or ())
