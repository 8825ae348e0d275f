"""Every call of the gRPC service, asked with its own messages."""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as messages

from hanbit.bench.conformance.check import Failed, Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Server
from hanbit.bench.conformance.wire import SIMPLE, call, refusal

GROUP = Group("grpc", "KServe v2 predict protocol: GRPC; Triton: grpc_service.proto")
_NONE = f"{PREFIX}none"


@GROUP.check("live-ready", "ServerLive, ServerReady and ModelReady are true")
def _ready(server: Server) -> None:
    true(call(server.stub.ServerLive, messages.ServerLiveRequest()).live, "live")
    true(call(server.stub.ServerReady, messages.ServerReadyRequest()).ready, "ready")
    true(call(server.stub.ModelReady, messages.ModelReadyRequest(name=SIMPLE, version="1")).ready, "the model is ready")


@GROUP.check("no-model-ready", "ModelReady of a model that does not exist is false, no error")
def _not_ready(server: Server) -> None:
    equal(call(server.stub.ModelReady, messages.ModelReadyRequest(name=_NONE)).ready, False, "ready")


@GROUP.check("server-metadata", "ServerMetadata is what GET /v2 says")
def _metadata(server: Server) -> None:
    found = call(server.stub.ServerMetadata, messages.ServerMetadataRequest())
    seen = {"name": found.name, "version": found.version, "extensions": list(found.extensions)}
    equal(seen, server.metadata, "the metadata")


@GROUP.check("model-metadata", "ModelMetadata has the tensors with the batch dim")
def _model_metadata(server: Server) -> None:
    found = call(server.stub.ModelMetadata, messages.ModelMetadataRequest(name=SIMPLE))
    seen = [(one.name, one.datatype, list(one.shape)) for one in found.inputs]
    equal(seen, [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])], "inputs")


@GROUP.check("model-config", "ModelConfig is the configuration", "model_configuration")
def _config(server: Server) -> None:
    found = call(server.stub.ModelConfig, messages.ModelConfigRequest(name=SIMPLE)).config
    equal((found.name, found.max_batch_size, found.input[0].dims), (SIMPLE, 8, [16]), "name, batch, dims")


@GROUP.check("model-statistics", "ModelStatistics has counts", "statistics")
def _statistics(server: Server) -> None:
    found = call(server.stub.ModelStatistics, messages.ModelStatisticsRequest(name=SIMPLE)).model_stats
    equal([(one.name, one.version) for one in found], [(SIMPLE, "1")], "models")
    true(found[0].inference_stats.success.count > 0, "something has been counted")


@GROUP.check("repository-index", "RepositoryIndex lists the models", "model_repository")
def _index(server: Server) -> None:
    found = call(server.stub.RepositoryIndex, messages.RepositoryIndexRequest(ready=True)).models
    true((SIMPLE, "1", "READY") in [(one.name, one.version, one.state) for one in found], "it is among them")


@GROUP.check("load-unload", "RepositoryModelUnload and RepositoryModelLoad do so", "model_repository")
def _load(server: Server) -> None:
    name = f"{PREFIX}lazy"
    call(server.stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name=name))
    equal(call(server.stub.ModelReady, messages.ModelReadyRequest(name=name)).ready, False, "ready after unload")
    call(server.stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name=name))
    equal(call(server.stub.ModelReady, messages.ModelReadyRequest(name=name)).ready, True, "ready after load")


@GROUP.check("load-of-repository", "a load that names a repository is UNIMPLEMENTED", "model_repository")
def _load_named(server: Server) -> str:
    request = messages.RepositoryModelLoadRequest(model_name=f"{PREFIX}lazy", repository_name="some")
    return refusal(server.stub.RepositoryModelLoad, request, "UNIMPLEMENTED")


@GROUP.check("load-no-model", "a load of a model that is in no repository is the client's mistake", "model_repository")
def _load_none(server: Server) -> str:
    request = messages.RepositoryModelLoadRequest(model_name=_NONE)
    return refusal(server.stub.RepositoryModelLoad, request, "NOT_FOUND", "INVALID_ARGUMENT")


def _not_found(name: str, request: Any, *codes: str) -> Callable[[Server], str]:
    return lambda server: refusal(getattr(server.stub, name), request, *(codes or ("NOT_FOUND",)))


for _name, _request in (
    ("ModelMetadata", messages.ModelMetadataRequest(name=_NONE)),
    ("ModelConfig", messages.ModelConfigRequest(name=_NONE)),
    ("ModelInfer", messages.ModelInferRequest(model_name=_NONE)),
):
    GROUP.add(f"no-model-{_name}", f"{_name} of a model that does not exist is NOT_FOUND", _not_found(_name, _request))
GROUP.add(
    "no-model-ModelStatistics",
    "ModelStatistics of a model that does not exist is NOT_FOUND or INVALID_ARGUMENT",
    _not_found("ModelStatistics", messages.ModelStatisticsRequest(name=_NONE), "NOT_FOUND", "INVALID_ARGUMENT"),
    "statistics",
)


def _trace(model: str = "", **settings: list[str]) -> Any:
    request = messages.TraceSettingRequest(model_name=model)
    for name, values in settings.items():
        request.settings[name].value.extend(values)
    return request


@GROUP.check("trace-setting", "TraceSetting tells and changes the settings; an empty value takes one back", "trace")
def _trace_setting(server: Server) -> None:
    try:
        found = call(server.stub.TraceSetting, _trace(SIMPLE, trace_rate=["7"]))
        equal(list(found.settings["trace_rate"].value), ["7"], "trace_rate")
    finally:
        found = call(server.stub.TraceSetting, _trace(SIMPLE, trace_rate=[]))
    whole = call(server.stub.TraceSetting, _trace())
    equal(list(found.settings["trace_rate"].value), list(whole.settings["trace_rate"].value), "trace_rate afterwards")


for _what, _request, _codes in (
    ("rate-text", _trace(trace_rate=["x"]), ("INVALID_ARGUMENT",)),
    ("two-rates", _trace(trace_rate=["1", "2"]), ("INVALID_ARGUMENT",)),
    ("no-model", _trace(_NONE), ("NOT_FOUND", "INVALID_ARGUMENT")),
    ("file", _trace(trace_file=["/tmp/conform"]), ("UNIMPLEMENTED", "INVALID_ARGUMENT")),
):
    GROUP.add(
        f"trace-{_what}", f"TraceSetting refuses: {_what}", _not_found("TraceSetting", _request, *_codes), "trace"
    )


def _log(**settings: Any) -> Any:
    request = messages.LogSettingsRequest()
    for name, value in settings.items():
        kind = "bool_param" if isinstance(value, bool) else "uint32_param" if isinstance(value, int) else "string_param"
        setattr(request.settings[name], kind, value)
    return request


@GROUP.check("log-settings", "LogSettings tells and changes the settings", "logging")
def _log_settings(server: Server) -> None:
    before = call(server.stub.LogSettings, _log()).settings["log_verbose_level"].uint32_param
    try:
        found = call(server.stub.LogSettings, _log(log_verbose_level=before + 1))
        equal(found.settings["log_verbose_level"].uint32_param, before + 1, "log_verbose_level")
    finally:
        call(server.stub.LogSettings, _log(log_verbose_level=before))


for _what, _request, _codes in (
    ("switch-text", _log(log_info="x"), ("INVALID_ARGUMENT",)),
    ("format-unknown", _log(log_format="bad"), ("INVALID_ARGUMENT",)),
    ("file", _log(log_file="/tmp/conform"), ("UNIMPLEMENTED", "INVALID_ARGUMENT")),
):
    GROUP.add(f"log-{_what}", f"LogSettings refuses: {_what}", _not_found("LogSettings", _request, *_codes), "logging")


@GROUP.check("shm-status", "SystemSharedMemoryStatus has no region that nobody registered", "system_shared_memory")
def _shm(server: Server) -> None:
    found = call(server.stub.SystemSharedMemoryStatus, messages.SystemSharedMemoryStatusRequest()).regions
    equal(len(found), 0, "regions")
    call(server.stub.SystemSharedMemoryUnregister, messages.SystemSharedMemoryUnregisterRequest(name="nobody"))


@GROUP.check(
    "shm-register", "SystemSharedMemoryRegister of memory that there is not is refused", "system_shared_memory"
)
def _shm_register(server: Server) -> str:
    request = messages.SystemSharedMemoryRegisterRequest(name="wrong", key="/conform_nothing", byte_size=5)
    return refusal(server.stub.SystemSharedMemoryRegister, request, "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL")


@GROUP.check(
    "cuda-shm", "the calls of CUDA shared memory: no regions, a handle that is none refused", "cuda_shared_memory"
)
def _cuda(server: Server) -> str:
    equal(len(call(server.stub.CudaSharedMemoryStatus, messages.CudaSharedMemoryStatusRequest()).regions), 0, "regions")
    call(server.stub.CudaSharedMemoryUnregister, messages.CudaSharedMemoryUnregisterRequest())
    request = messages.CudaSharedMemoryRegisterRequest(name="wrong", raw_handle=b"x" * 64, byte_size=5)
    return refusal(server.stub.CudaSharedMemoryRegister, request, "INVALID_ARGUMENT", "UNIMPLEMENTED")


@GROUP.check("health", "the standard health service says SERVING for the whole server and for the service")
def _health(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "inference.GRPCInferenceService"):
        found = call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        equal(found.status, health_pb2.HealthCheckResponse.SERVING, f"status of {service!r}")


@GROUP.check("health-unknown", "the standard health service knows no other service: NOT_FOUND")
def _health_unknown(server: Server) -> str:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return refusal(stub.Check, health_pb2.HealthCheckRequest(service="conform"), "NOT_FOUND")


@GROUP.check("unknown-method", "a method that there is not is UNIMPLEMENTED")
def _unknown(server: Server) -> str:
    method = server.channel.unary_unary("/inference.GRPCInferenceService/Nothing")
    try:
        method(b"", timeout=10)
    except grpc.RpcError as problem:
        equal(problem.code(), grpc.StatusCode.UNIMPLEMENTED, "status")
        return str(problem.code())
    raise Failed("it succeeded")
