"""A strict stand-in for NVIDIA's `tensorrt` and cuda-python, as of TensorRT 8.6 to 11.4.

What a version does not have raises AttributeError, as its bindings do; unknown attributes cannot be
set, as on pybind11's classes.  `make interop` compares names, signatures and values with the real
bindings (models/runtimes/test_tensorrt_bindings.py).  The "engine" is the ONNX file with a header,
and is run by ONNX Runtime on "device memory", so that answers can be compared.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

VERSIONS = ("8.6.1", "10.0.1", "10.12.0.36", "11.0.0.114")
MAGIC = b"FAKE-PLAN"


class Enum(enum.Enum):
    """pybind11's enums turn into int when asked, and are no int."""

    def __int__(self) -> int:
        return int(self.value)


class IHostMemory:
    """IHostMemory: a buffer, nothing else."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    @property
    def nbytes(self) -> int:
        return len(self._data)


class Gpu:
    """Device memory and a stream; `calls` are the names of what was called."""

    def __init__(self, name: bytes = b"Orin\0\0", major: int = 8, minor: int = 7) -> None:
        self.name, self.major, self.minor = name, major, minor
        self.memory: dict[int, bytearray] = {}
        self.calls: list[str] = []
        self.next = 0x7000_0000
        self.count = 1
        self.driver = self.supported = True

    def at(self, address: int) -> bytearray:
        return self.memory[address]


def fake_cuda(gpu: Gpu) -> ModuleType:
    """cuda.bindings.runtime (the older cuda.cudart has the same functions)."""
    module = ModuleType("cuda.bindings.runtime")

    class Error(Enum):
        cudaSuccess = 0
        cudaErrorInvalidValue = 1
        cudaErrorNoDevice = 100

    class Kind(Enum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class Properties:
        __slots__ = ("major", "minor", "name")

    class Stream:
        def __int__(self) -> int:
            return 77

    ok = Error.cudaSuccess

    def called(function: Any) -> None:
        def wrapped(*arguments: Any) -> Any:
            if not gpu.driver:  # as cuda-python 12.3 says it
                raise RuntimeError("Failed to dlopen libcuda.so.1")
            gpu.calls.append(function.__name__)
            return function(*arguments)

        setattr(module, function.__name__, wrapped)

    @called
    def cudaGetDeviceCount() -> Any:
        return (ok, gpu.count) if gpu.count else (Error.cudaErrorNoDevice, None)

    @called
    def cudaSetDevice(index: int) -> Any:
        return (ok if 0 <= index < gpu.count else Error.cudaErrorInvalidValue,)

    @called
    def cudaGetDeviceProperties(index: int) -> Any:
        found = Properties()
        found.name, found.major, found.minor = gpu.name, gpu.major, gpu.minor
        return ok, found

    @called
    def cudaStreamCreate() -> Any:
        return ok, Stream()

    @called
    def cudaStreamSynchronize(stream: Any) -> Any:
        assert int(stream) == 77
        return (ok,)

    @called
    def cudaMalloc(size: int) -> Any:
        gpu.next += 0x1_0000_0000
        gpu.memory[gpu.next] = bytearray(size)
        return ok, gpu.next

    @called
    def cudaFree(address: int) -> Any:
        del gpu.memory[address]
        return (ok,)

    @called
    def cudaMemcpyAsync(to: int, source: int, count: int, kind: Any, stream: Any) -> Any:
        assert int(stream) == 77
        held = gpu.memory[to if kind is Kind.cudaMemcpyHostToDevice else source]
        if count > len(held):
            return (Error.cudaErrorInvalidValue,)
        if kind is Kind.cudaMemcpyHostToDevice:
            held[:count] = ctypes.string_at(source, count)
        else:
            ctypes.memmove(to, bytes(held[:count]), count)
        return (ok,)

    @called
    def cudaGetErrorString(status: Any) -> Any:
        return ok, status.name.encode()

    module.cudaMemcpyKind = Kind
    module.cudaError_t = Error
    return module


def install_cuda(monkeypatch: Any, gpu: Gpu, *, legacy: bool = False) -> None:
    """Put the fake where cuda-python is imported from: `cuda.bindings`, or before 12.6 `cuda`."""
    module = fake_cuda(gpu)
    package = ModuleType("cuda")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "cuda", package)
    if legacy:
        package.cudart = module
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        monkeypatch.setitem(sys.modules, "cuda.cudart", module)
        return
    bindings = ModuleType("cuda.bindings")
    bindings.__path__ = []
    bindings.runtime = module
    package.bindings = bindings
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", module)


def fake_tensorrt(version: str, gpu: Gpu) -> ModuleType:
    """The package `tensorrt` of a version; `module.seen` is what was asked of it."""
    number = tuple(int(part) for part in version.split(".")[:2])
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    seen: dict[str, Any] = {"flags": [], "profiles": [], "pools": {}, "caches": []}
    trt.seen = seen
    trt.float32, trt.float16 = Enum("DataType", {"FLOAT": 0, "HALF": 1})

    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    class ILogger:
        def __init__(self) -> None:
            self._ready = True

    ILogger.Severity = Severity

    class Logger(ILogger):
        ERROR = Severity.ERROR

        def __init__(self, min_severity: Severity) -> None:
            super().__init__()
            assert isinstance(min_severity, Severity)

        def log(self, severity: Severity, msg: str) -> None:
            pass

    for name, values in _enums(number).items():
        setattr(trt, name, Enum(name, values))

    class ITimingCache:
        __slots__ = ("_data",)

        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._data + b"+measured")

    class IBuilderConfig:
        __slots__ = (
            "_cache",
            "_flags",
            "_profiles",
            "hardware_compatibility_level",
            "profiling_verbosity",
        )

        def __init__(self) -> None:
            self._flags: set[Any] = set()
            self._profiles: list[Any] = []
            self._cache: ITimingCache | None = None
            self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
            self.hardware_compatibility_level = trt.HardwareCompatibilityLevel.NONE

        def set_flag(self, flag: Any) -> None:
            assert isinstance(flag, trt.BuilderFlag)
            self._flags.add(flag)
            seen["flags"].append(flag.name)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            assert isinstance(pool, trt.MemoryPoolType)
            seen["pools"][pool.name] = pool_size

        def add_optimization_profile(self, profile: Any) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            seen["caches"].append(cache._data)
            if cache._data.startswith(b"another machine"):
                return False
            self._cache = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class IOptimizationProfile:
        __slots__ = ("_shapes",)

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            assert len(min) == len(opt) == len(max) == 4
            self._shapes = (tuple(min), tuple(opt), tuple(max))
            seen["profiles"].append((input, *self._shapes))

    class INetworkDefinition:
        __slots__ = ("_flags", "_model")

        def __init__(self, flags: int) -> None:
            self._flags, self._model = flags, b""

        def _typed(self) -> bool:
            wanted = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
            asked = wanted is not None and bool(self._flags >> int(wanted) & 1)
            return number >= (11, 0) or (number >= (10, 0) and asked)

    class Builder:
        __slots__ = ("_log",)

        def __init__(self, logger: ILogger) -> None:
            assert logger._ready, "ILogger.__init__ was not called"
            _start(gpu)
            self._log = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            assert type(flags) is int
            seen["network_flags"] = flags
            return INetworkDefinition(flags)

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(
            self, network: INetworkDefinition, config: IBuilderConfig
        ) -> IHostMemory | None:
            reason = _refusal(trt, network, config)
            if reason:
                self._log.log(Severity.ERROR, reason)
                return None
            self._log.log(Severity.VERBOSE, "one of hundreds of thousands of lines")
            sparse = trt.BuilderFlag.SPARSE_WEIGHTS in config._flags
            if sparse:
                for line in _sparsity_lines(number):
                    self._log.log(Severity.INFO, line)
            head = {
                "version": version,
                "sparse": sparse,
                "int8": b"QuantizeLinear" in network._model,
                "detailed": config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED,
                "profile": config._profiles[0]._shapes,
            }
            return IHostMemory(MAGIC + json.dumps(head).encode() + b"\n" + network._model)

    class ParserError:
        __slots__ = ()

        def desc(self) -> str:
            return "No importer registered for op: NoSuchOperator"

    class OnnxParser:
        __slots__ = ("_errors", "_network")

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network, self._errors = network, 0

        @property
        def num_errors(self) -> int:
            return self._errors

        def parse(self, model: bytes) -> bool:
            batch = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
            implicit = number < (10, 0) and not self._network._flags >> int(batch) & 1
            if implicit or b"NoSuchOperator" in model:
                self._errors = 1
                return False
            self._network._model = bytes(model)
            return True

        def get_error(self, index: int) -> Any:
            return ParserError()

    class IExecutionContext:
        __slots__ = ("_addresses", "_engine", "_shape")

        def __init__(self, engine: Any) -> None:
            self._engine, self._addresses, self._shape = engine, {}, None

        def set_input_shape(self, name: str, shape: Any) -> bool:
            least, _, most = self._engine._head["profile"]
            self._shape = tuple(shape)
            return name == "input" and least[0] <= shape[0] <= most[0]

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert type(memory) is int
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert stream_handle == 77
            names = {"input", *self._engine._outputs}
            if set(self._addresses) != names:
                return False
            count = int(np.prod(self._shape))
            raw = gpu.at(self._addresses["input"])[: 4 * count]
            pixels = np.frombuffer(bytes(raw), np.float32).reshape(self._shape)
            results = self._engine._session.run(self._engine._outputs, {"input": pixels})
            for name, values in zip(self._engine._outputs, results, strict=True):
                gpu.at(self._addresses[name])[: values.nbytes] = values.tobytes()
            return True

    class EngineInspector:
        __slots__ = ("_head",)

        def __init__(self, head: dict[str, Any]) -> None:
            self._head = head

        def get_engine_information(self, format: Any) -> str:
            assert format is trt.LayerInformationFormat.JSON
            return json.dumps(_inspected(self._head, number))

    class ICudaEngine:
        __slots__ = ("_head", "_outputs", "_session")

        def __init__(self, data: bytes) -> None:
            head, _, model = data.removeprefix(MAGIC).partition(b"\n")
            self._head = json.loads(head)
            self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            self._outputs = [one.name for one in self._session.get_outputs()]

        @property
        def num_io_tensors(self) -> int:
            return 1 + len(self._outputs)

        @property
        def num_layers(self) -> int:
            return 3

        def get_tensor_name(self, index: int) -> str:
            return ["input", *self._outputs][index]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name == "input" else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.float32

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            ports = [*self._session.get_inputs(), *self._session.get_outputs()]
            (shape,) = [port.shape for port in ports if port.name == name]
            return (-1, *shape[1:])

        def create_execution_context(self) -> IExecutionContext:
            return IExecutionContext(self)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self._head)

    class Runtime:
        __slots__ = ("_log",)

        def __init__(self, logger: ILogger) -> None:
            assert logger._ready
            _start(gpu)
            self._log = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            seen["deserialized"] = seen.get("deserialized", 0) + 1
            if not serialized_engine.startswith(MAGIC):
                return None
            engine = ICudaEngine(serialized_engine)
            return engine if engine._head["version"] == version else None

    own = (ILogger, Logger, Builder, INetworkDefinition, OnnxParser, ParserError, IBuilderConfig)
    own += (ITimingCache, IOptimizationProfile, Runtime, ICudaEngine, IExecutionContext)
    for kind in (*own, EngineInspector, IHostMemory):
        setattr(trt, kind.__name__, kind)
    return trt


def _enums(number: tuple[int, ...]) -> dict[str, dict[str, int]]:
    """The enums of a version, with their values."""
    creation = {
        8: {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
        10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        11: {"STRONGLY_TYPED": 0},
    }
    flags = {
        8: {"FP16": 0, "INT8": 1, "TF32": 7, "SPARSE_WEIGHTS": 8, "VERSION_COMPATIBLE": 15},
        10: {"FP16": 0, "INT8": 1, "TF32": 6, "SPARSE_WEIGHTS": 7, "VERSION_COMPATIBLE": 13},
        11: {"TF32": 6, "SPARSE_WEIGHTS": 7, "VERSION_COMPATIBLE": 12},
    }
    levels = {"NONE": 0, "AMPERE_PLUS": 1}
    if number >= (10, 12):
        levels["SAME_COMPUTE_CAPABILITY"] = 2
    return {
        "NetworkDefinitionCreationFlag": creation[number[0]],
        "BuilderFlag": flags[number[0]],
        "MemoryPoolType": {"WORKSPACE": 0, "DLA_MANAGED_SRAM": 1},
        "ProfilingVerbosity": {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2},
        "HardwareCompatibilityLevel": levels,
        "LayerInformationFormat": {"ONELINE": 0, "JSON": 1},
        "TensorIOMode": {"NONE": 0, "INPUT": 1, "OUTPUT": 2},
    }


def _start(gpu: Gpu) -> None:
    """What pybind11 makes of a null pointer, where TensorRT does not start."""
    if not gpu.supported:
        raise TypeError("pybind11::init(): factory function returned nullptr")


def _refusal(trt: Any, network: Any, config: Any) -> str:
    """Why the builder would give up; empty when it would not."""
    names = {flag.name for flag in config._flags}
    if not config._profiles:
        return "Network has dynamic inputs, but no optimization profile has been defined."
    if network._typed() and names & {"FP16", "INT8"}:
        return "Precision flags cannot be set for a strongly typed network."
    if not network._typed() and b"QuantizeLinear" in network._model and "INT8" not in names:
        return "Networks with Q/DQ layers need the INT8 flag."
    return ""


def _sparsity_lines(number: tuple[int, ...]) -> list[str]:
    if number < (10, 0):
        return [
            "(Sparsity) Layers eligible for sparse math: conv1 + relu1, conv2",
            "(Sparsity) TRT inference plan picked sparse implementation for layers: conv2",
        ]
    return [
        "(Sparsity) Found 9 layer(s) eligible to use sparse tactics: an earlier pass",
        "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: conv1 + relu1, conv2",
        "(Sparsity) Chose 1 layer(s) using sparse tactics: conv2",
    ]


def _inspected(head: dict[str, Any], number: tuple[int, ...]) -> dict[str, Any]:
    if not head["detailed"]:
        return {"Layers": ["conv1 + relu1", "conv2", "head"], "Bindings": []}
    kind = "Int8" if head["int8"] else "Float"
    key = "DataType" if number >= (11, 0) else "Format/Datatype"
    layers = [
        {"Name": "reformat", "LayerType": "Reformat", "Inputs": [{key: "Int8"}]},
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{key: kind}],
            "Weights": {"Type": kind, "Count": 100},
            "TacticName": "sm80_xmma_fprop_implicit_gemm",
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Inputs": [{key: kind}],
            "Weights": {"Type": kind, "Count": 100},
            "TacticName": f"sm80_xmma_fprop_{'sparse_conv' if head['sparse'] else 'implicit_gemm'}",
        },
        {
            "Name": "head",
            "LayerType": "gemm",
            "Inputs": [{key: kind}, {key: kind}],
            "TacticName": "",
        },
    ]
    return {"Layers": layers}
