"""What the inner products of feature vectors tell: distances, principal components, t-SNE.

Feature vectors of whole maps are long (1.6 million numbers for 96 channels at 128 x 128). They lie in a scratch
file, and only the matrix G = X X^T of all pairs is held in memory: ||x_i - x_j||^2 = G_ii + G_jj - 2 G_ij.

Shapes: n vectors, D numbers each. This module needs no torch.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE

from airpipe.errors import AirpipeError
from airpipe.progress import track
from airpipe.provenance import write_failed

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

CHUNK_BYTES = 64 * 2**20
"""Size in bytes of the columns that are in memory at a time."""
ZERO = 1e-12
"""Squared distances below this share of both squared lengths are rounding: the vectors are the same in float32."""
START = 1e-4
"""Standard deviation of the first coordinate from which t-SNE starts. Source: scikit-learn."""


class FeatureRows:
    """Vectors of float32 in a scratch file; see `feature_rows`."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.count, self.length = 0, 0

    def append(self, row: Vector) -> None:
        """Add a vector (D,).

        Raises:
            ValueError: its length is not that of the others.
        """
        if self.count and len(row) != self.length:
            raise ValueError(f"a vector of {len(row)} numbers after vectors of {self.length}")
        self._stream.write(np.asarray(row, np.float32).tobytes())
        self.count, self.length = self.count + 1, len(row)

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[Matrix]:
        """Yield all vectors, some columns at a time: (n, d) float64 of at most `size` bytes (or one column)."""
        self._stream.flush()
        stored = np.memmap(cast(Any, self._stream), np.float32, "r", shape=(self.count, self.length))
        step = max(1, size // (8 * self.count))
        starts = range(0, self.length, step)
        for start in track(starts, len(starts), "inner products"):
            yield np.asarray(stored[:, start : start + step], np.float64)

    def gram(self, size: int = CHUNK_BYTES) -> Matrix:
        """Inner products of all pairs, (n, n) in float64; `size` is that of `chunks`."""
        total = np.zeros((self.count, self.count))
        for chunk in self.chunks(size):
            total += chunk @ chunk.T
        return total


@contextmanager
def feature_rows(folder: Path) -> Iterator[FeatureRows]:
    """Keep vectors in a nameless file in `folder`: its space is free again however the process ends.

    Raises:
        AirpipeError: the folder cannot be written or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            yield FeatureRows(cast(IO[bytes], stream))
    except OSError as error:
        raise write_failed(folder / "(scratch file of features)", error) from None


def distances(gram: Matrix) -> Matrix:
    """Euclidean distances (n, n) of inner products (n, n); exactly 0 between equal vectors."""
    squares = np.diagonal(gram)
    both = squares[:, None] + squares
    found = both - 2 * gram
    found[found < ZERO * both] = 0
    np.fill_diagonal(found, 0)
    return cast(Matrix, np.sqrt(found))


def normalised(gram: Matrix) -> Matrix:
    """Inner products (n, n) of the vectors scaled to length 1; vectors of zeros stay."""
    lengths = np.sqrt(np.diagonal(gram))
    lengths = np.where(lengths > 0, lengths, 1)
    return gram / lengths / lengths[:, None]


def principal_components(gram: Matrix, count: int) -> Matrix:
    """The first principal components (n, count) of the vectors, exactly.

    Signs are such that the largest coordinate of each component is positive.

    Args:
        gram: inner products (n, n).
        count: number of components, at most n.
    """
    # inner products of the vectors less their mean
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(count)]
    return np.asarray(vectors * np.sign(largest) * np.sqrt(np.maximum(values, 0)), np.float64)


def check_perplexity(perplexity: float, count: int) -> None:
    """Check that t-SNE can show `count` vectors.

    Raises:
        AirpipeError: fewer vectors than the perplexity needs.
    """
    if not perplexity < count:
        raise AirpipeError(
            f"t-SNE with perplexity {perplexity:g} needs more than {perplexity:g} crops, found {count}. "
            "Raise features.crops_per_image or images_per_class, or lower features.perplexity"
        )


def tsne(gram: Matrix, perplexity: float, iterations: int, seed: int) -> Matrix:
    """Coordinates (n, 2) of t-SNE on the vectors scaled to length 1, started from their principal components.

    Args:
        gram: inner products (n, n) of the vectors as they are.
        perplexity: number of neighbours that count for a vector, roughly; below n.
        iterations: iterations of the solver, at least 250.
        seed: seed of scikit-learn's solver.

    Raises:
        AirpipeError: see `check_perplexity`.
    """
    check_perplexity(perplexity, len(gram))
    unit = normalised(gram)
    start = principal_components(unit, 2)
    spread = start[:, 0].std()
    model = TSNE(
        metric="precomputed",
        init=(start / (spread or 1) * START).astype(np.float32),
        perplexity=perplexity,
        max_iter=iterations,
        learning_rate="auto",
        random_state=seed,
    )
    return np.asarray(model.fit_transform(distances(unit)), np.float64)
