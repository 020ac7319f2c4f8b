"""The trainer: from token shards to a language model that writes."""
