"""This machine: files, locks, processes, commands; nothing here knows what an image or a disk is."""
