"""Real brokers for the tests, one file each; each installs what is missing and ends only what it started."""
