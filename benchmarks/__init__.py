"""Measurements of speed: each module prints a table and decides nothing."""
