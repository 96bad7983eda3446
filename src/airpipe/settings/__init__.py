"""All that a configuration may say, typed and checked. Nothing here imports torch: Snakemake reads it at each start."""
