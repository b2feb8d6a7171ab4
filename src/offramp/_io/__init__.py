"""Reading and writing files: whole or not at all, and checked when they are read."""
