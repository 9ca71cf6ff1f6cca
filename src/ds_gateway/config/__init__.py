"""The configuration: models, and the only reader of YAML and of the environment."""
