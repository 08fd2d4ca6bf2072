"""A graph in ONNX Runtime on one device, and its calls, whose inputs and outputs are tensors that lie there.

On a CPU a graph reads and writes the very memory of its caller. On a GPU keys, values, states and logits never leave
it; what the host decides before each call, such as tokens, is copied there.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contracts.errors import StoreError

CPU = torch.device("cpu")
# How long threads wait for each other without sleeping: on quiet cores a step gets a fifth faster, on cores that others
# use a quarter slower; longer gains no more and costs more (docs/log.md).
SPIN_MICROSECONDS = 50

BUILDS = ("onnxruntime", "onnxruntime-gpu")
BOTH_BUILDS = (
    "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; uninstall both, then"
    " install one: pip install 'kamishibai[cpu]' or 'kamishibai[gpu]'"
)
CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "use_tf32": "0",  # else products of fp32 would be rounded to 10 bits of mantissa
    # The default times all algorithms at every start, so that another one, with other bits, may win the next time.
    "cudnn_conv_algo_search": "HEURISTIC",
    "arena_extend_strategy": "kSameAsRequested",  # PyTorch needs the memory next to it
    "do_copy_in_default_stream": "1",
}
SHAPE_OPERATORS = frozenset({"Concat", "Shape"})  # ONNX Runtime computes shapes on the CPU, where they are needed

_NOWHERE = torch.empty(1)
_ELEMENTS = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}


def installed_builds() -> dict[str, str]:
    """Which of ONNX Runtime's packages are installed, with their versions. There must not be two."""
    found = {}
    for build in BUILDS:
        try:
            found[build] = version(build)
        except PackageNotFoundError:
            continue
    return found


class Session:
    """A graph that is loaded and ready to be called."""

    def __init__(self, graph: Path, threads: int, device: torch.device = CPU) -> None:
        """Raises StoreError where ONNX Runtime is missing, refuses the graph or cannot run it on the device."""
        self.device = device
        self.runtime = open_session(graph, threads, device)
        self._types = {known.name: known.type for known in self.runtime.get_inputs()}
        places = self.runtime.get_input_memory_infos()
        # Inputs that the graph reads on the CPU: all of them, or what a GPU's operators ask the host for.
        self.host_inputs = {name for name, place in zip(self._types, places, strict=True) if place.name == "Cpu"}

    def dtype(self, name: str) -> torch.dtype:
        """The floating-point type of an input."""
        return torch.float16 if self._types[name] == "tensor(float16)" else torch.float32


class Call:
    """Calls of one shape, whose inputs and outputs are bound once: fill `given`, run, read the outputs.

    `given` are arrays of the host; `kept` and `outputs` are tensors on the session's device, some of which may be the
    same memory.
    """

    def __init__(
        self, session: Session, given: dict[str, NDArray[Any]], kept: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> None:
        self.given = given
        self.outputs = outputs
        self._kept = kept  # like the others; ONNX Runtime knows their addresses alone
        self._runtime = session.runtime
        self._binding = session.runtime.io_binding()
        self._copies: list[tuple[Tensor, Tensor]] = []
        for name, array in given.items():
            source = torch.from_numpy(array)
            read = source if name in session.host_inputs else source.to(session.device)
            if read is not source:
                self._copies.append((read, source))
            _bind(self._binding.bind_input, name, read)
        for name, tensor in kept.items():
            _bind(self._binding.bind_input, name, tensor)
        for name, tensor in outputs.items():
            _bind(self._binding.bind_output, name, tensor)

    def run(self) -> None:
        """Returns when the outputs are there."""
        if self._copies:
            self._send()
        self._binding.synchronize_inputs()  # ONNX Runtime's stream does not wait for PyTorch's by itself
        self._runtime.run_with_iobinding(self._binding)

    @torch.inference_mode()
    def _send(self) -> None:
        for read, source in self._copies:
            read.copy_(source)


def _bind(bind: Any, name: str, tensor: Tensor) -> None:
    """Raises ValueError for a tensor whose numbers do not lie one after the other."""
    address = tensor.data_ptr() or _NOWHERE.data_ptr()  # PyTorch has none for an empty tensor, which must have one
    if not tensor.is_contiguous():
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not contiguous, so it cannot be bound")
    bind(
        name,
        tensor.device.type,
        tensor.device.index or 0,
        _ELEMENTS[tensor.dtype],
        tuple(tensor.shape),
        address,
    )


def open_session(graph: Path, threads: int, device: torch.device = CPU) -> Any:
    """An onnxruntime.InferenceSession. Raises StoreError where the library is missing, refuses the graph or cannot run
    it on the device."""
    try:
        import onnxruntime
    except ImportError:
        extra = "cpu" if device.type == "cpu" else "gpu"
        raise StoreError(
            f"ONNX variants need ONNX Runtime; install it with: pip install 'kamishibai[{extra}]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if CUDA not in onnxruntime.get_available_providers():
            raise StoreError(f"{graph} cannot be run on {device}: {_missing_provider()}")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers.insert(0, (CUDA, CUDA_OPTIONS | {"device_id": str(device.index or 0)}))
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions have no base of their own
        raise StoreError(f"{graph} cannot be run: {error}") from None
    if device.type == "cuda":
        _check_placement(session, graph, device)
    return session


def _missing_provider() -> str:
    """Why this ONNX Runtime has no CUDA."""
    if len(installed_builds()) > 1:
        return BOTH_BUILDS
    return "this ONNX Runtime is the build for CPUs; uninstall onnxruntime, then: pip install 'kamishibai[gpu]'"


def _check_placement(session: Any, graph: Path, device: torch.device) -> None:
    """ONNX Runtime falls back to the CPU silently. Raises StoreError if it has, for anything but shapes."""
    if CUDA not in session.get_providers():
        raise StoreError(
            f"{graph} cannot be run on {device}: ONNX Runtime could not start CUDA. Its own message, printed before "
            "this one, names what is missing; mostly this PyTorch is not for the CUDA that ONNX Runtime was built with"
        )
    fallen = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != CUDA
        for node in part.get_nodes()
        if node.op_type not in SHAPE_OPERATORS
    )
    if fallen:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(fallen.items()))
        raise StoreError(f"{graph} cannot be run on {device}: ONNX Runtime would leave {named} in it to the CPU")
