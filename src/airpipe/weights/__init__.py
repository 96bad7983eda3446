"""Files of weights: ours, and those that others published."""
