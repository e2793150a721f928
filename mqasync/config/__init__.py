"""config.yml and the environment to Settings; nothing is opened."""
