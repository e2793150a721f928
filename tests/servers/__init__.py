"""One real server for each broker, for tests and benchmarks; nothing is asserted here."""
