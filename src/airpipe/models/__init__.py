"""Backbones, one file each; they know nothing of Fabric, Snakemake or files."""
