"""One stage a module; `run(context)` fills the folder of its artifact."""
