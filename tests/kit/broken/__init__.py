"""The broken drivers, a module for each part of the contract; importing this enters all of them."""

from kit.broken import (
    able,
    creation,
    durable,
    exports,
    failing,
    flattening,
    growth,
    holding,
    looking,
    memories,
    naming,
    removal,
    shape,
    snapshots,
    stores,
    templates,
)

TOPICS = (
    able,
    creation,
    durable,
    exports,
    failing,
    flattening,
    growth,
    holding,
    looking,
    memories,
    naming,
    removal,
    shape,
    snapshots,
    stores,
    templates,
)
