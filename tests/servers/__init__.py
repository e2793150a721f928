"""Real servers for tests, a file for each kind: installed, started, killed; nothing is asserted here."""
