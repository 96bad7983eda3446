def picture_keeper(folder: Path, with_clean: bool) -> Keep:
    """Make a `keep` function that writes `<name>.png`.

    With `with_clean` also `<name>_clean.png`, what results are compared with, and `<name>_reference.png`, if there is
    one.
    """

    def write(name: str, pixels: Rgb8) -> None:
        write_picture(folder / f"{name}.png", Picture(np.ascontiguousarray(pixels)))

    def keep(sample: Sample, restored: FloatImage, clean: Rgb8) -> None:
        write(sample.name, quantised(restored))
        if with_clean:
            write(f"{sample.name}_clean", clean)
            if sample.reference is not None:
                write(f"{sample.name}_reference", quantised(sample.reference))

    return keep
