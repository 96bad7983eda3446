"""Data sets: manifests, pair lists, stateless sampling, training samples."""
