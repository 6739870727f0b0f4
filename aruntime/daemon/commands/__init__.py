"""The commands of the command line: their tables, their flags, one module per group."""
