"""aruntimed: the composition root, the supervisor, the command socket, the commands."""
