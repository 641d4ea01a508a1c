"""Jumanji's multi-agent environments behind the library's own protocol."""
