"""What scoring costs: ours, BasicSR's published form, scikit-image, and the floor. `python -m benchmarks.metrics`.

One pair of 481x321 RGB images of 8 bit, one core; all forms in alternation, the order turned round every other round;
the median of process CPU time. The floor is what the filters of SSIM alone cost: four separable ones in float32. The
exit status is 0 whatever the numbers are.

With folders of pairs (`--degraded rain --clean norain`: files sorted by name belong together) it measures evaluations
instead: under `airpipe` alone and under all protocols, without a model and with a small NAFNet.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
import yaml
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from airpipe.data.pairs import Pair
from airpipe.errors import run_main
from airpipe.evaluation.candidates import network_restorer
from airpipe.evaluation.metrics import WINDOWS, Image, psnr, ssim
from airpipe.evaluation.protocol import Restorer, evaluate
from airpipe.pixels import Rgb8
from airpipe.registry import build_network
from airpipe.settings.scoring import ProtocolSettings, TestSettings
from benchmarks.measuring import cpu_times, machine_line

SIZE = (321, 481)


# BasicSR's functions, own code after their description: float64, channel by channel, a full 2-D filter


def published_psnr(restored: Rgb8, clean: Rgb8) -> float:
    """PSNR in dB over all pixels, in float64."""
    error = np.mean((restored.astype(np.float64) - clean.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(20 * np.log10(255 / np.sqrt(error)))


def published_ssim(restored: Rgb8, clean: Rgb8) -> float:
    """SSIM of each channel with an 11x11 Gaussian window, then their mean."""
    first, second = restored.astype(np.float64), clean.astype(np.float64)
    return float(np.mean([_channel_ssim(first[..., c], second[..., c]) for c in range(first.shape[2])]))


def _channel_ssim(first: Image, second: Image) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    kernel = cv2.getGaussianKernel(11, 1.5)
    window = np.outer(kernel, kernel.transpose())

    def means(image: Image) -> Image:
        return np.asarray(cv2.filter2D(image, -1, window)[5:-5, 5:-5])

    mu1, mu2 = means(first), means(second)
    mu1_sq, mu2_sq, mu12 = mu1**2, mu2**2, mu1 * mu2
    sigma1_sq, sigma2_sq = means(first**2) - mu1_sq, means(second**2) - mu2_sq
    sigma12 = means(first * second) - mu12
    ratio = ((2 * mu12 + c1) * (2 * sigma12 + c2)) / ((mu1_sq + mu2_sq + c1) * (sigma1_sq + sigma2_sq + c2))
    return float(ratio.mean())


def library_psnr(restored: Rgb8, clean: Rgb8) -> float:
    """PSNR of scikit-image."""
    return float(peak_signal_noise_ratio(clean, restored, data_range=255))


def library_ssim(restored: Rgb8, clean: Rgb8, gaussian: bool) -> float:
    """SSIM of scikit-image: its default, or with the window and moments of Wang et al."""
    more = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11} if gaussian else {}
    return float(structural_similarity(clean, restored, channel_axis=2, data_range=255, **more))


def floor(picture: Image) -> float:
    """Four separable filters of a picture in float32, as Gaussian SSIM needs them."""
    kernel = cv2.getGaussianKernel(11, 1.5)
    for _ in range(4):
        cv2.sepFilter2D(picture, -1, kernel, kernel)
    return 0.0


def images() -> tuple[Rgb8, Rgb8]:
    """A photograph with noise of sigma 15, and without."""
    clean = np.ascontiguousarray(skimage.data.astronaut()[: SIZE[0], : SIZE[1]])  # type: ignore[no-untyped-call]
    noise = np.random.default_rng(0).normal(0, 15, clean.shape)
    return np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8), clean


# Evaluations


def small_network() -> Restorer:
    """A NAFNet of the demo's size with random weights."""
    torch.manual_seed(0)
    size = {"width": 16, "middle_blk_num": 2, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}
    return network_restorer(build_network("nafnet", **size).eval(), torch.device("cpu"), 0)


def evaluations(degraded: Path, clean: Path, degradation: str, rounds: int) -> None:
    """Print the wall time of evaluations of a folder of pairs, one protocol and all of them in alternation."""
    files = zip(
        *(sorted(path for path in folder.iterdir() if path.is_file()) for folder in (degraded, clean)), strict=True
    )
    pairs = [Pair(sharp, rough, "", "", "centre", sharp.stem, sharp.stem) for rough, sharp in files]
    read = yaml.safe_load(Path("config/protocols.yaml").read_text(encoding="utf-8"))["protocols"]
    protocols = {name: ProtocolSettings.model_validate(values) for name, values in read.items()}
    for name, restorer in (("no model", None), ("a small NAFNet", small_network())):
        seconds: dict[str, list[float]] = {"airpipe alone": [], "all protocols": []}
        for turn in range(rounds):
            for label in list(seconds)[:: -1 if turn % 2 else 1]:
                chosen = ("airpipe",) if label == "airpipe alone" else tuple(protocols)
                test = TestSettings(pairs="some.pairs", degradation=degradation, protocols=chosen)
                begin = time.perf_counter()
                evaluate(test, protocols, pairs, restorer, label=f"{name}, {label}")
                seconds[label].append(time.perf_counter() - begin)
        one, every = (float(np.median(values)) for values in seconds.values())
        print(f"{name}: {one:.3f} s under airpipe, {every:.3f} s under {len(protocols)} protocols: {every / one:.2f}x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--degraded", type=Path, help="folder of degraded images")
    parser.add_argument("--clean", type=Path, help="folder of their clean images")
    parser.add_argument("--degradation", default="rain", help="what they show (default: %(default)s)")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(machine_line())
    if given.degraded and given.clean:
        evaluations(given.degraded, given.clean, given.degradation, min(given.rounds, 5))
        return
    x, y = images()
    picture = x.astype(np.float32)
    gaussian, uniform = WINDOWS["ssim_gaussian11"], WINDOWS["ssim_uniform7"]
    forms: dict[str, Callable[[], float]] = {
        "PSNR, ours": lambda: psnr(x, y),
        "PSNR, BasicSR's form": lambda: published_psnr(x, y),
        "PSNR, scikit-image": lambda: library_psnr(x, y),
        "SSIM gaussian11, ours": lambda: ssim(x, y, gaussian),
        "SSIM gaussian11, BasicSR's form": lambda: published_ssim(x, y),
        "SSIM gaussian11, scikit-image": lambda: library_ssim(x, y, gaussian=True),
        "SSIM uniform7, ours": lambda: ssim(x, y, uniform),
        "SSIM uniform7, scikit-image": lambda: library_ssim(x, y, gaussian=False),
        "floor: four filters": lambda: floor(picture),
    }
    times = {name: float(np.median(spent)) for name, spent in cpu_times(forms, given.rounds, 5).items()}
    for name, milliseconds in times.items():
        print(f"{name:<34}{milliseconds:>9.3f} ms   value {forms[name]():.9f}")
    ours = times["PSNR, ours"] + times["SSIM gaussian11, ours"]
    for name, other in (
        ("BasicSR's form", times["PSNR, BasicSR's form"] + times["SSIM gaussian11, BasicSR's form"]),
        ("scikit-image", times["PSNR, scikit-image"] + times["SSIM gaussian11, scikit-image"]),
        ("floor", times["floor: four filters"]),
    ):
        print(f"PSNR + SSIM gaussian11: {name} / ours = {other / ours:.2f}")
    uniform_ratio = times["SSIM uniform7, scikit-image"] / times["SSIM uniform7, ours"]
    print(f"SSIM uniform7: scikit-image / ours = {uniform_ratio:.2f}")
    print(f"ours: {1000 / ours:.0f} pairs a second; goal: BasicSR's form / ours >= 10")


if __name__ == "__main__":
    run_main(main)
