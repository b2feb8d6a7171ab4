"""Reading and writing files. Files are written atomically and verified when they are read."""
