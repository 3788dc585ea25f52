"""One graft step a module; its name is the name that a strategy's YAML uses."""
