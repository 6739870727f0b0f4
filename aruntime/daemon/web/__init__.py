"""Who may read over HTTP and how: the web configuration that Prometheus' exporters share."""
