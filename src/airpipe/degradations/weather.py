"""Rain, snow and haze. Images are float32 (H, W, 3), RGB, nominally in [0, 1]."""

import cv2
import numpy as np

from airpipe.degradations.blur import disc_kernel, line_kernel
from airpipe.pixels import FloatImage

SNOW_LAYERS = ((0.25, 0.75), (0.5, 0.2), (1.0, 0.05))
"""Far, middle and near flakes: diameter as a part of the nearest flakes', and share of all flakes."""


def mixed(image: FloatImage, share: FloatImage, light: FloatImage) -> FloatImage:
    """Return image * share + light, with a share and a light for each pixel.

    Args:
        image: (H, W, 3).
        share, light: maps (H, W).
    """
    # channel by channel: NumPy takes its time to spread a map over three, and copies of it would be fresh memory
    found = np.empty(image.shape, np.float32)
    for channel in range(image.shape[2]):
        np.multiply(image[..., channel], share, out=found[..., channel])
        found[..., channel] += light
    return found


def rain_streaks(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    density: float,
    length: float,
    angle: float,
    width: float,
    strength: float,
) -> FloatImage:
    """Add bright rain streaks of one direction.

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: places the drops and draws each one's brightness, from 0.4 to 1 times `strength`.
        density: drops per pixel; 0.002 is light rain.
        length: length of a streak in pixels, at least 1.
        angle: angle against the vertical in degrees; positive leans to the right.
        width: width of a streak in pixels, at least 1.
        strength: largest brightness of a single streak, in [0, 1].

    Returns:
        Rainy image of the same shape; values may exceed 1 where streaks cross or meet bright places.

    Raises:
        ValueError: density or strength outside [0, 1], length or width below 1.

    Source: ours; additive model O = B + S of Rain100L/H (Yang et al., CVPR 2017, eq. 1).
    """
    if not (0 <= density <= 1 and 0 <= strength <= 1):
        raise ValueError(f"density {density} and strength {strength} must lie in [0, 1]")
    kernel = line_kernel(length, 90 - angle, width)
    # drops are drawn around the image as well: their streaks reach into it
    margin = kernel.shape[0] // 2
    height, columns = image.shape[0] + 2 * margin, image.shape[1] + 2 * margin
    # the order of draws is a contract (see `recipes.degrade`): first the places, then the brightness
    drops = generator.random((height, columns), dtype=np.float32)
    brightness = generator.uniform(0.4, 1.0, (height, columns)).astype(np.float32)
    streaks = cv2.filter2D(np.where(drops < density, brightness, 0), -1, kernel / kernel.max())
    streaks = streaks[margin : margin + image.shape[0], margin : margin + image.shape[1]]
    streaks = np.maximum(streaks, 0)  # OpenCV filters large kernels in the frequency domain, exact to rounding
    light, wet = np.float32(strength) * streaks, image.astype(np.float32)
    for channel in range(image.shape[2]):  # see `mixed`
        wet[..., channel] += light
    return wet


def flake_kernel(diameter: float, motion: float, angle: float) -> FloatImage:
    """Blur a soft disc along the line of its movement; the values sum to the area of the disc.

    Args:
        diameter: diameter of the disc in pixels, at least 1.
        motion: length of the movement, in pixels; 0 is none. A moving flake is longer and more transparent.
        angle: angle of the movement against the vertical in degrees; positive leans to the right.
    """
    path = line_kernel(1 + motion, 90 - angle)
    disc = disc_kernel(diameter, path.shape[0] // 2)
    return np.asarray(cv2.filter2D(disc, -1, path, borderType=cv2.BORDER_CONSTANT), np.float32)


def snow_mask(
    shape: tuple[int, int],
    generator: np.random.Generator,
    *,
    density: float,
    size: float,
    motion: float,
    angle: float,
    strength: float,
) -> FloatImage:
    """Draw the opacity of falling snow, (H, W) in [0, 1]; for the arguments see `snow`."""
    transmitted = np.ones(shape, np.float32)
    for scale, share in SNOW_LAYERS:
        kernel = flake_kernel(max(1.0, scale * size), scale * motion, angle)
        margin = kernel.shape[0] // 2
        padded = (shape[0] + 2 * margin, shape[1] + 2 * margin)
        # order of draws, a contract: in each layer first the places, then the opacity
        places = np.flatnonzero(generator.random(padded, dtype=np.float32) < density * share)
        opacity = (0.5 + 0.5 * generator.random(padded).ravel()[places]).astype(np.float32)  # from 0.5 to 1
        flakes = np.zeros(padded, np.float32)
        flakes.ravel()[places] = opacity * np.float32(strength)
        layer = cv2.filter2D(flakes, -1, kernel)[margin : margin + shape[0], margin : margin + shape[1]]
        # flakes of one layer add up, layers cover one another
        transmitted *= 1 - np.minimum(np.maximum(layer, 0), 1)
    return 1 - transmitted


def snow(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    density: float,
    size: float,
    motion: float,
    angle: float,
    strength: float,
) -> FloatImage:
    """Let white snow fall before the image: I (1 - m) + m, with a made-up mask m of round flakes.

    Far flakes are many, small and slow, near ones few, large and fast (`SNOW_LAYERS`).

    Args:
        image: clean image, (H, W, 3) in [0, 1].
        generator: places the flakes and draws each one's opacity, from half of `strength` to all of it.
        density: flakes per pixel; 0.01 is dense.
        size: diameter of the nearest flakes, in pixels, at least 1.
        motion: length of the nearest flakes' movement, in pixels; 0 is none.
        angle: angle of the movement against the vertical in degrees; positive leans to the right.
        strength: largest opacity of a single flake, in [0, 1].

    Returns:
        Snowy image of the same shape, nowhere darker, in [0, 1] where the image is.

    Raises:
        ValueError: density or strength outside [0, 1], size below 1, motion negative.

    Source: mask ours; compositing as in the generator of CDD-11 (Guo et al., "OneRestore", ECCV 2024).
    """
    if not (0 <= density <= 1 and 0 <= strength <= 1):
        raise ValueError(f"density {density} and strength {strength} must lie in [0, 1]")
    if size < 1 or motion < 0:
        raise ValueError(f"size {size} must be at least 1 pixel and motion {motion} at least 0")
    shape = (image.shape[0], image.shape[1])
    mask = snow_mask(shape, generator, density=density, size=size, motion=motion, angle=angle, strength=strength)
    return mixed(image, 1 - mask, mask)


def procedural_depth(shape: tuple[int, int], generator: np.random.Generator) -> FloatImage:
    """Make up a smooth depth map in [0, 1], for photographs without a measured one.

    A plane, mostly far at the top as in outdoor views, plus a few broad bumps.

    Args:
        shape: size (H, W) of the map.
        generator: draws the plane and the bumps.

    Returns:
        Relative depth (H, W) float32; 0 is nearest, 1 farthest.

    Source: ours.
    """
    height, width = shape
    rows = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None]
    plane = generator.uniform(0.3, 1.0) * rows + generator.uniform(-0.5, 0.5) * columns
    bumps = generator.standard_normal((3, 3)).astype(np.float32)
    broad = np.asarray(cv2.resize(bumps, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    depth = plane + np.float32(0.12) * broad
    nearest = depth.min()
    spread = float(depth.max() - nearest)
    return np.asarray((depth - nearest) / max(spread, 1e-6), np.float32)  # a single pixel has no spread


def haze(
    image: FloatImage,
    generator: np.random.Generator,
    *,
    airlight: float,
    beta: float,
    near: float,
    far: float,
    depth: FloatImage | None = None,
) -> FloatImage:
    """Mix the image with white airlight, more with distance: I = J t + A (1 - t), t = exp(-beta d).

    Args:
        image: clean image J, (H, W, 3) in [0, 1].
        generator: draws a `procedural_depth` where none is given.
        airlight: A, in [0, 1].
        beta: scattering coefficient, at least 0.
        near: distance d of the nearest point.
        far: distance d of the farthest point.
        depth: relative depth (H, W) in [0, 1], 0 near; None: a procedural one.

    Returns:
        Hazy image of the same shape, in [0, 1].

    Raises:
        ValueError: airlight outside [0, 1], beta negative, near > far, depth of another size.

    Source: atmospheric scattering model as in RESIDE (Li et al., TIP 2019, eq. 1 and 2); A and
    beta of its indoor set lie in [0.7, 1.0] and [0.6, 1.8].
    """
    if not 0 <= airlight <= 1 or beta < 0 or near > far:
        raise ValueError(f"airlight {airlight} not in [0, 1], beta {beta} < 0 or near {near} > far {far}")
    if depth is None:
        depth = procedural_depth((image.shape[0], image.shape[1]), generator)
    if depth.shape != image.shape[:2]:
        raise ValueError(f"depth is {depth.shape}; expected {image.shape[:2]}")
    transmission = np.exp(-np.float32(beta) * (np.float32(near) + np.float32(far - near) * depth))
    return mixed(image, transmission, np.float32(airlight) * (1 - transmission))
