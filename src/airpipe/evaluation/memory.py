"""How much memory a network needs: measured in one forward pass, or estimated without one."""

import json
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from airpipe.errors import AirpipeError
from airpipe.models.contract import example_input, size_multiple
from airpipe.models.cost import meta_state
from airpipe.registry import build_network
from airpipe.resident import peak_bytes, resident_bytes

COPIES = 2.0
"""Factor from what the tensors of a pass hold to the memory that it takes: libraries copy them into own layouts.
Measured with float32 on a CPU: 1.7 to 2.1 (NAFNet), 1.6 (Restormer), 1.2 (PromptIR), below 1 (SwinIR)."""


def peak_memory_mb(
    name: str, arguments: dict[str, Any], device: torch.device, side: int = 256, fresh: bool = False
) -> int:
    """Most memory in 10^6 bytes that one forward pass of (1, C, side, side) holds beside the weights; float32.

    On a GPU: what torch's allocator gave out, less what it had given out before. On a CPU: how far the resident memory
    of a fresh process rises, with the threads that this one has. Image and result count.

    Args:
        name: registered name of the network.
        arguments: arguments of its constructor.
        device: where the pass runs.
        side: H and W of the image, in pixels.
        fresh: whether this process has only imported so far: it is then measured itself, which saves a start of torch.

    Raises:
        AirpipeError: the process failed, for example for lack of memory.
    """
    if device.type == "cuda":
        return round(_peak_on_gpu(build_network(name, **arguments).eval(), device, side) / 1e6)
    if fresh:
        try:
            return round(_rise(name, arguments, side, torch.get_num_threads()) / 1e6)
        except (RuntimeError, MemoryError) as error:
            raise _not_measured(name, side, " ".join(str(error).split())[:200]) from error
    request = json.dumps([name, arguments, side, torch.get_num_threads()])
    command = [sys.executable, "-c", f"from {__name__} import _print_rise; _print_rise()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, input=request, capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        raise _not_measured(name, side, reason)
    return round(int(done.stdout) / 1e6)


def _not_measured(name: str, side: int, reason: str) -> AirpipeError:
    return AirpipeError(
        f"the memory of {name} at {side}x{side} pixels could not be measured ({reason}). Measure a smaller image"
    )


def _peak_on_gpu(network: nn.Module, device: torch.device, side: int) -> int:
    network = network.to(device)
    before: int = torch.cuda.memory_allocated(device)
    inputs = example_input(network, side, side, device)
    torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        network(*inputs)
    peak: int = torch.cuda.max_memory_allocated(device)
    return int(peak - before)


def _print_rise() -> None:
    print(_rise(*json.load(sys.stdin)))


def _rise(name: str, arguments: Mapping[str, Any], side: int, threads: int) -> int:
    torch.set_num_threads(threads)
    network = build_network(name, **arguments).eval()
    least = size_multiple(network)
    with torch.inference_mode():
        network(*example_input(network, least, least, "cpu"))  # libraries load code and make buffers at the first call
        before = resident_bytes()
        network(*example_input(network, side, side, "cpu"))
    return max(peak_bytes() - before, 0)


def activation_bytes(network: nn.Module, height: int, width: int) -> int:
    """Most bytes that the tensors of one forward pass of an image of this size hold at once, without the weights.

    Followed on the meta device: nothing is computed, and it is the same on all machines. What libraries
    need for their work comes on top; `COPIES` allows for it.
    """
    state = meta_state(network)
    inputs = example_input(network, height, width, "meta")
    with torch.inference_mode(), _Holdings(state) as holdings:
        torch.func.functional_call(network, state, inputs)
    return int(holdings.peak)


class _Holdings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make, until nothing refers to them."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in weights.values())
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return results

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
