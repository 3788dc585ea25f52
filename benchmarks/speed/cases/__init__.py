"""A file here is a case: it defines `CASE` (`benchmarks.speed.case.Case`)."""
