"""A real server for each broker, started by the tests; asserts nothing."""
