"""One command a module: `run(arguments)` returns the exit code. Nothing heavy is imported before it is needed."""
