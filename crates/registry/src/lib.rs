//! A service registry with heartbeats, and load balancing over what it knows.
