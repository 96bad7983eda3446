"""Curation: any pictures are listed, scored, chosen and cut into packs of patches, a job per shard of the list."""
