"""The two Lightning modules, the models they wrap, and their losses."""
