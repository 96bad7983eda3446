"""How fast the networks train: forward, L1 loss, backward, AdamW. `python -m benchmarks.training_step`.

Each network runs in several modes against a yardstick: the same network with the same weights written the way
published code is written (`benchmarks.published_forms`), eager, float32, contiguous maps. All take a step in turns
within one run, the order reversed every other round; ratios are medians over the rounds. Beside the speed stands
parity: the largest difference of the output (images in [0, 1]), and the relative differences of the loss and of
the norm of the gradient from the yardstick's, before the first step.

- On a CPU: small forms of the networks, 96x96 pixels; process CPU time, so that a busy neighbour does not count.
  Threads that wait for each other do count: use more than one on an idle machine only. Compiled modes need a C++
  compiler. A network takes minutes, most of them compiling.
- On a GPU: the published sizes with batches of training; wall time of several steps, images per second and the
  share of the bfloat16 roof (operations of a step: 3 times those of a forward pass). Convolutions of the
  yardstick may use TF32, as is torch's default.

Weights and images are random (seed 0); layer scales and norms are moved away from their start, so that every block
counts. Goals are printed beside the numbers; the exit status is 0.
"""

import argparse
import copy
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from airpipe.errors import AirpipeError, run_main
from airpipe.models.cost import multiply_accumulates
from airpipe.progress import track
from airpipe.registry import build_network
from airpipe.settings.stages import OptimizerSettings
from airpipe.training.task import make_optimizer
from benchmarks.measuring import machine_line
from benchmarks.published_forms import published_form

ROOF = 790e12
"""Operations a second in bfloat16 that an H200 reached in matrix products."""
STEPS = {"cpu": 1, "cuda": 10}
"""Steps of a turn."""


@dataclass(frozen=True)
class Work:
    """A network and its batch: `batch` images of side `size`."""

    network: str
    arguments: dict[str, Any]
    batch: int
    size: int
    goal: float | None


RESTORMER = {"dim": 24, "num_blocks": [1, 2, 2, 2], "num_refinement_blocks": 1}
NAFNET = {"middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}
WORK: dict[str, list[Work]] = {
    "cpu": [
        Work("nafnet", {**NAFNET, "width": 32, "enc_blk_nums": [1, 1, 1, 4]}, 4, 96, 1.7),
        Work("restormer", RESTORMER, 2, 96, 2.0),
        Work("swinir", {"depths": [2, 2], "num_heads": [6, 6], "drop_path_rate": 0.0}, 1, 96, None),
        Work("promptir", {**RESTORMER, "num_blocks": [1, 1, 1, 1]}, 2, 96, None),
    ],
    "cuda": [
        Work("nafnet", {**NAFNET, "width": 64, "enc_blk_nums": [1, 1, 1, 28]}, 32, 128, 4.0),
        Work("restormer", {}, 8, 128, 4.0),
        Work("swinir", {"drop_path_rate": 0.0}, 8, 128, 4.0),
        Work("promptir", {}, 8, 128, 4.0),
    ],
}
TINY = [
    Work("nafnet", {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1], "dec_blk_nums": [1]}, 1, 16, 1.7),
    Work("restormer", {"dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1}, 1, 16, 2.0),
    Work("swinir", {"embed_dim": 12, "depths": [2], "num_heads": [2], "drop_path_rate": 0.0}, 1, 16, None),
    Work("promptir", {"dim": 8, "num_blocks": [1] * 4, "num_refinement_blocks": 1}, 1, 16, None),
]


@dataclass(frozen=True)
class Mode:
    """How a step is computed; the yardstick is the one in published form."""

    name: str
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    published: bool = False


YARDSTICK = Mode("published form, float32", published=True)
EAGER = [
    Mode("float32"),
    Mode("float32, channels_last", channels_last=True),
    Mode("bfloat16", bf16=True),
    Mode("bfloat16, channels_last", bf16=True, channels_last=True),
]
COMPILED = [Mode(f"compiled, {mode.name}", mode.bf16, mode.channels_last, True) for mode in EAGER if mode.channels_last]


class Trainer:
    """A network, its optimizer and one batch.

    Args:
        network: copied.
        mode: how a step is computed.
        images: degraded and clean, (B, 3, H, W) each.
    """

    def __init__(self, network: nn.Module, mode: Mode, images: Sequence[Tensor]) -> None:
        self.mode, self.device = mode, images[0].device
        own = published_form(network) if mode.published else copy.deepcopy(network)
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        own = own.to(memory_format=layout)  # type: ignore[call-overload]
        self.degraded, self.clean = (image.contiguous(memory_format=layout) for image in images)
        self.parameters = list(own.parameters())
        self.optimizer = make_optimizer(self.parameters, OptimizerSettings(learning_rate=1e-4))
        self.forward = cast(Callable[[Tensor], Tensor], torch.compile(own) if mode.compiled else own)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Forward and backward pass; gives restored images and loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mode.bf16):
            restored = self.forward(self.degraded)
        loss = (restored.float() - self.clean).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return restored.detach().float(), loss.detach()

    def step(self) -> None:
        """One training step."""
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def look(self) -> tuple[Tensor, float, float]:
        """Restored images, loss and norm of the gradient, without changing a weight."""
        restored, loss = self.gradients()
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.zero_grad()
        return restored, float(loss), float(norm)


@dataclass(frozen=True)
class Found:
    """What one mode showed: milliseconds of a step per round, differences from the yardstick, seconds to compile."""

    step_ms: list[float]
    output: float
    loss: float
    gradient: float
    compile_s: float


def setting(work: Work, device: torch.device) -> tuple[nn.Module, list[Tensor]]:
    """The network with weights that make every block count, and a batch."""
    torch.manual_seed(0)
    network = build_network(work.network, **work.arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() == max(parameter.shape):  # norms, biases, scales of branches
                parameter.add_(0.1 * torch.randn_like(parameter))
    images = [torch.rand(work.batch, 3, work.size, work.size) for _ in range(2)]
    return network.to(device), [image.to(device) for image in images]


def measure(work: Work, modes: Sequence[Mode], rounds: int, device: torch.device) -> dict[Mode, Found]:
    """Take steps in all modes, in turns.

    Args:
        work: network and batch.
        modes: the first is what the others are compared with.
        rounds: after one that is not counted.
        device: where to.
    """
    network, images = setting(work, device)
    trainers = {mode: Trainer(network, mode, images) for mode in modes}
    looks, first_s = {}, {}
    for mode in track(modes, len(modes), f"{work.network}: first passes, compiling"):
        start = time.perf_counter()
        looks[mode] = trainers[mode].look()
        first_s[mode] = time.perf_counter() - start
    times: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for number in track(range(rounds + 1), rounds + 1, f"{work.network}: measuring"):
        for mode in modes if number % 2 else reversed(modes):
            spent = turn(trainers[mode], device)
            if number:
                times[mode].append(spent)
    image, loss, gradient = looks[modes[0]]
    found = {}
    for mode in modes:
        output = (looks[mode][0] - image).abs().max().item()
        relative = (abs(looks[mode][1] / loss - 1), abs(looks[mode][2] / gradient - 1))
        found[mode] = Found(times[mode], output, *relative, first_s[mode] if mode.compiled else 0.0)
    return found


def turn(trainer: Trainer, device: torch.device) -> float:
    """Milliseconds of a step: CPU time of all threads, or wall time of a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    for _ in range(STEPS[device.type]):
        trainer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (clock() - start) / STEPS[device.type]


def report(work: Work, found: dict[Mode, Found], device: torch.device) -> str:
    """The table of one network, its goal at the end."""
    yardstick, *others = found
    network = build_network(work.network, **work.arguments)
    parameters = sum(p.numel() for p in network.parameters())
    title = f"{work.network}, {parameters / 1e6:.1f} M parameters, {work.batch} x {work.size}x{work.size}"
    kind = "CPU ms" if device.type == "cpu" else "ms"
    head = f"{'mode':<36}{kind + '/step':>12}{'lowest':>8}{'speed':>8}"
    head += f"{'output':>10}{'loss':>9}{'gradient':>10}{'compile':>9}"
    head += f"{'images/s':>10}{'roof':>7}" if device.type == "cuda" else ""
    operations = 6 * work.batch * multiply_accumulates(network, work.size, work.size)
    speeds, lines = {}, [title, head]
    for mode, one in found.items():
        ratios = [base / mine for base, mine in zip(found[yardstick].step_ms, one.step_ms, strict=True)]
        speeds[mode], middle = statistics.median(ratios), statistics.median(one.step_ms)
        line = f"{mode.name:<36}{middle:>12.1f}{min(one.step_ms):>8.1f}{speeds[mode]:>7.2f}x{one.output:>10.1e}"
        line += f"{one.loss:>9.1e}{one.gradient:>10.1e}" + (f"{one.compile_s:>7.0f} s" if mode.compiled else f"{'':>9}")
        if device.type == "cuda":
            line += f"{1000 * work.batch / middle:>10.1f}{operations / middle * 1000 / ROOF:>7.1%}"
        lines.append(line)
    best = max(others, key=lambda mode: speeds[mode])
    goal = "no goal" if work.goal is None else f"goal >= {work.goal:g}x"
    return "\n".join([*lines, f"best: {speeds[best]:.2f}x ({best.name}); {goal}"])


def compiler() -> str | None:
    """The C++ compiler that torch.compile needs for a CPU, or None."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [work.network for work in WORK["cpu"]]
    parser.add_argument("--network", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=list(WORK), default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled modes")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: shows that everything runs, not how fast")
    given = parser.parse_args()
    if min(given.rounds, given.threads) < 1:
        raise AirpipeError(f"--rounds is {given.rounds}, --threads {given.threads}; give at least 1 of each")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise AirpipeError("--device cuda: torch sees no GPU here. Run where one is, or give --device cpu")
    torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True
    device, compiled = torch.device(given.device), [] if given.no_compile else COMPILED
    card = f"{torch.cuda.get_device_name()}; " if given.device == "cuda" else ""
    print(f"{card}{machine_line()}, {given.rounds} rounds", flush=True)
    if compiled and given.device == "cpu" and compiler() is None:
        print("no C++ compiler (g++ or clang++, or $CXX): compiled modes are left out")
        compiled = []
    for work in TINY if given.tiny else WORK[given.device]:
        if work.network in given.network:
            found = measure(work, [YARDSTICK, *EAGER, *compiled], given.rounds, device)
            print(f"\n{report(work, found, device)}", flush=True)


if __name__ == "__main__":
    run_main(main)
