"""Methods: each paper has a folder of its own."""
