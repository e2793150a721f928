"""Pictures and AsyncAPI of services; nothing is opened."""
