"""What turns results into tables, one module per kind of result."""
