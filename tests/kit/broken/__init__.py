"""The broken drivers, a module for each part of the contract; importing this enters all of them."""

from kit.broken import able, creation, exports, failing, growth, holding, looking, naming, removal, shape, stores

TOPICS = (able, creation, exports, failing, growth, holding, looking, naming, removal, shape, stores)
