"""What imgbackend writes to remember: one module for each format of a file on disk."""
