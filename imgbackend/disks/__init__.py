"""Disks as callers see them: made, kept, exported, bound to their records."""
