"""The cache of base images: what is there, what is in use, what may go."""
