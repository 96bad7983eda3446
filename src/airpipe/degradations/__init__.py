"""Degradations as pure, seeded functions, and the recipes that draw their parameters."""
