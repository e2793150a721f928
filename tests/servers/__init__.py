"""Real servers of the brokers beside RabbitMQ and Redis, one file each."""
