"""Drawings of the report: charts, and grids of pictures."""
