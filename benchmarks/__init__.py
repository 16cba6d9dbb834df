"""Measures imgbackend side by side with what it replaces: ``./dev bench``."""
