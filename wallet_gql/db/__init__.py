"""PostgreSQL: the tables, the connections, the embedded server."""
