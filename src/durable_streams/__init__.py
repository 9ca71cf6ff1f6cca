"""Client, idempotent producer and server for the Durable Streams protocol."""
