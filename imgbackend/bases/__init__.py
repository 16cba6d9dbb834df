"""Base images in the base folder: fetched once, checked, published whole."""
