"""The shim: parent of every container, keeper of their output and exit statuses."""
