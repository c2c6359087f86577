//! Token-bucket rate limits for tower services: exact, per key, in bounded memory.
