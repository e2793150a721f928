"""Looking at queues and processes, and mending them; no command line."""
