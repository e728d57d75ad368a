"""Load against a running server, and what it costs: one server, one client, one closed loop, used by benchmarks and tests."""
