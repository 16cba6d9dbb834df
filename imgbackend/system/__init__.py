"""This machine: files, locks, processes, commands; it knows no image and no disk."""
