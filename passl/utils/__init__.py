"""Config, registry, errors, logging, environment: nothing here knows of models or data."""
