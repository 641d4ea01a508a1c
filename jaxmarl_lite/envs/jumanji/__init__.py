"""Adapters that give Jumanji's multi-agent environments the library's own protocol."""
