"""Edge gateway: MQTT and serial telemetry into durable streams, exactly once and in order."""

__version__ = "0.1.0"
